"""Visual words: which of a codebook are nearest to descriptors, exactly."""

import collections
import hashlib
import os
import threading

import numpy as np

from delf.base import arrays, errors, files

# Words whose best score stands for all of them.
_GROUP = 16
# Words of which all scores are held; from there on groups are faster (measured
# from 256 to 65536 words of 128 values).
_FEW = 4096
# Scores held at once: of few words 2 MB of float32, which stay in a processor's
# cache, and of many 16 MB; best scores of groups, 32 MB.
_TABLE = 1 << 19
_WORD_SCORES_BLOCK = 4_000_000
_MAXIMA = 8_000_000
# Most descriptors of a step.
_STEP = 1024
# Values of descriptors and words that are multiplied again at once.
_AGAIN = 1_000_000
# Words that are returned at once for more than one descriptor.
_CANDIDATES = 4_000_000
# A score lower than that of any word, for places of no word.
_NO_WORD = np.float32(-1e38)


class Scores:
  """Finds candidates among words. Threads may share it."""

  def __init__(self, centers):
    """Prepares the words; takes as much memory as they do.

    Args:
      centers: [K, D] float32, finite, K and D over 0.
    """
    self._words = len(centers)
    # Distances do not change when the origin does, and rounding errors shrink.
    origin = centers.mean(axis=0, dtype=np.float64)
    self._origin = origin.astype(np.float32)
    self._rows = _with_squares(centers, self._origin)
    squares = -2 * self._rows[: self._words, -1].min()
    self._longest = float(np.sqrt(squares))  # Of the centred words.

  def candidates(self, descriptors, number):
    """Finds the words that may be among the nearest.

    Args:
      descriptors: [N, D] float32, finite.
      number: Nearest words that are looked for, from 1 to K.

    Yields:
      Slice of the descriptors, one after the other; [P] int words, at least
      `number` for each of these, and all that may be among the nearest; and [P]
      int, which of these descriptors each is for, ascending, as are the words
      of each.
    """
    few = self._words < max(_FEW, number * _GROUP**2)
    held = _TABLE if few else _MAXIMA * _GROUP
    step = min(_STEP, max(1, held // len(self._rows)))
    find = self._of_few if few else self._of_many
    for first in range(0, len(descriptors), step):
      rows = slice(first, min(first + step, len(descriptors)))
      yield from find(rows, *self._prepared(descriptors[rows]), number)

  def _prepared(self, descriptors):
    """Returns centred descriptors with ones behind, and twice the error.

    A sum of D products in any order has an error under D u sum |x c|, where u
    is float32's unit of rounding (N. Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); some more for the parts that are rounded
    before.

    Returns:
      [N, D + 1] float32; [N] float32, twice the largest error of a score.
    """
    dimension = descriptors.shape[1]
    centred = np.ones([len(descriptors), dimension + 1], np.float32)
    np.subtract(descriptors, self._origin, out=centred[:, :-1])
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))  # Over |x|.
    longest, unit = self._longest, np.finfo(np.float32).eps / 2
    error = (dimension + 8) * unit * (lengths + longest) * longest
    return centred, (2 * error).astype(np.float32)

  def _of_few(self, rows, centred, slack, number):
    """Yields what `candidates` does, from a table of all scores."""
    scores = centred @ self._rows.T
    least = _nth_highest(scores, number) - slack
    found = np.flatnonzero(scores >= least[:, np.newaxis])
    feature, word = np.divmod(found, scores.shape[1])
    yield rows, word, feature

  def _of_many(self, rows, centred, slack, number):
    """Yields what `candidates` does, from the best scores of groups."""
    maxima = self._maxima(centred)
    least = _nth_highest_of_many(maxima, number) - slack
    group, feature = np.nonzero(maxima >= least)
    if len(group) * _GROUP > _CANDIDATES and len(centred) > 1:
      # As where many words are one: fewer at once, so that memory stays.
      middle = len(centred) // 2
      for half in (slice(0, middle), slice(middle, len(centred))):
        of = slice(rows.start + half.start, rows.start + half.stop)
        yield from self._of_many(of, centred[half], slack[half], number)
      return
    found = self._again(centred, group, feature, least)
    order = arrays.stable_argsort(found[1])
    word, feature, score = (each[order] for each in found)
    best = score[np.lexsort([-score, feature])]
    first = np.searchsorted(feature, np.arange(len(centred)))
    least = best[first + number - 1] - slack
    keep = score >= least[feature]
    yield rows, word[keep], feature[keep]

  def _maxima(self, centred):
    """Returns the best scores of groups of words, [groups, N] float32."""
    number, words = len(centred), len(self._rows)
    maxima = np.empty([words // _GROUP, number], dtype=np.float32)
    step = max(2048, _WORD_SCORES_BLOCK // number // _GROUP * _GROUP)
    table = np.empty([min(step, words), number], dtype=np.float32)
    for start in range(0, words, step):
      rows = self._rows[start : start + step]
      scores = np.matmul(rows, centred.T, out=table[: len(rows)])
      scores = scores.reshape(-1, _GROUP, number)
      some = slice(start // _GROUP, (start + step) // _GROUP)
      np.maximum.reduce(scores, axis=1, out=maxima[some])
    return maxima

  def _again(self, centred, group, feature, least):
    """Returns word, feature and score [P] of what has at least `least`."""
    parts = []
    step = max(1, _AGAIN // (_GROUP * centred.shape[1]))
    rows = self._rows.reshape(-1, _GROUP, centred.shape[1])
    for start in range(0, len(group), step):
      some = slice(start, start + step)
      of = feature[some]
      scores = np.einsum("pgd,pd->pg", rows[group[some]], centred[of])
      pair, place = np.nonzero(scores >= least[of][:, np.newaxis])
      word = group[some][pair] * _GROUP + place
      parts.append((word, of[pair], scores[pair, place]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _with_squares(centers, origin):
  """Returns centred rows, each with -|c|^2 / 2 behind it, in whole groups."""
  number, dimension = centers.shape
  padded = -(-number // _GROUP) * _GROUP
  rows = np.zeros([padded, dimension + 1], dtype=np.float32)
  centred = rows[:number, :-1]
  np.subtract(centers, origin, out=centred)
  squares = np.einsum("ij,ij->i", centred, centred)
  rows[:number, -1] = squares / -2
  rows[number:, -1] = _NO_WORD
  return rows


def _nth_highest(scores, number):
  """Returns a bound, [N], that at least `number` of [N, K] scores reach."""
  if number == 1:
    return scores.max(axis=1)
  groups = scores.shape[1] // _GROUP
  if groups >= 2 * number:  # So many of the best are in different ones.
    scores = scores.reshape(len(scores), _GROUP, groups).max(axis=1)
  return np.partition(scores, -number, axis=1)[:, -number]


def _nth_highest_of_many(maxima, number):
  """Returns a bound, [N], that at least `number` of [groups, N] maxima reach.

  Args:
    maxima: [groups, N] float32.
    number: At most as many as there are groups of groups.
  """
  while len(maxima) >= max(2, number) * _GROUP:
    whole = len(maxima) // _GROUP * _GROUP
    coarse = maxima[:whole].reshape(-1, _GROUP, maxima.shape[1])
    maxima = np.maximum.reduce(coarse, axis=1)
  return np.partition(maxima, len(maxima) - number, axis=0)[-number]


# Values of descriptors and words whose differences are held at once.
_BLOCK = 1_000_000
# Descriptors are shorter, so that squares of their distances are float32 still.
_LONGEST = 1e15


class Words:
  """The words of a codebook, ready to be searched. Threads may share it."""

  def __init__(self, centers):
    """Prepares the search; takes as much memory as the codebook.

    Args:
      centers: [K, D] float32, finite; not copied.

    Raises:
      InputError: If it is of another shape, or has values that are not finite.
    """
    self.centers = check_descriptors(centers, "a codebook")
    if not self.centers.size:
      raise errors.InputError(
        "a codebook of shape [K, D]", f"{list(self.centers.shape)}"
      )
    self._scores = Scores(self.centers)

  def __len__(self):
    return self.centers.shape[0]

  @property
  def dimension(self):
    """Dimension of the words."""
    return self.centers.shape[1]

  def nearest(self, descriptors, number=1):
    """Finds the nearest words of descriptors, by Euclidean distance.

    Args:
      descriptors: [N, D] float.
      number: Words for each, at least one, at most K.

    Returns:
      [N, number] int32, nearest first; of words at the same distance the one
      of the lower index first. Equal up to rounding in float64.

    Raises:
      InputError: If descriptors are of another dimension than the words or not
        finite, or the number cannot be.
    """
    descriptors = self.check(descriptors)
    if not 1 <= number <= len(self):
      raise errors.InputError(
        f"1 to {len(self)} words for each feature (num_assignments)", number
      )
    found = np.empty([len(descriptors), number], dtype=np.int32)
    for rows, word, of in self._scores.candidates(descriptors, number):
      some = descriptors[rows]
      if number > 1 or len(word) > len(some):
        # Words at the same distance stay ascending, as they come.
        order = np.argsort(self._distances(some, word, of), kind="stable")
        order = order[arrays.stable_argsort(of[order])]
        word, of = word[order], of[order]
      first = np.searchsorted(of, np.arange(len(some)))
      found[rows] = word[first[:, np.newaxis] + np.arange(number)]
    return found

  def check(self, descriptors):
    """Returns descriptors as [N, D] float32, or raises an InputError."""
    descriptors = check_descriptors(descriptors, "features")
    if not len(descriptors):
      return np.zeros([0, self.dimension], dtype=np.float32)
    if descriptors.shape[1] != self.dimension:
      raise errors.InputError(
        f"features of dimension {self.dimension}, as the codebook has",
        f"dimension {descriptors.shape[1]}",
      )
    return descriptors

  def _distances(self, descriptors, word, feature):
    """Returns the squared distances of pairs, [P] float64."""
    distances = np.empty([len(word)])
    step = max(1, _BLOCK // self.dimension)
    for start in range(0, len(word), step):
      some = slice(start, start + step)
      difference = descriptors[feature[some]].astype(np.float64)
      difference -= self.centers[word[some]]
      distances[some] = np.einsum("ij,ij->i", difference, difference)
    return distances


def check_descriptors(descriptors, name):
  """Returns descriptors as [N, D] float32.

  Args:
    descriptors: [N, D] array of numbers; any empty array stands for none.
    name: Words for them.

  Raises:
    InputError: If they are of another rank or type, or not finite.
  """
  array = np.asarray(descriptors)
  if array.size == 0:
    return np.zeros([0, array.shape[1] if array.ndim == 2 else 0], np.float32)
  if array.ndim != 2 or array.dtype.kind not in "fiu":
    raise errors.InputError(
      f"{name} as an array of numbers of shape [N, D]",
      f"{array.dtype} of shape {list(array.shape)}",
    )
  with np.errstate(over="ignore", invalid="ignore"):
    array = array.astype(np.float32, copy=False)
    squares = np.einsum("ij,ij->i", array, array)
  bad = np.flatnonzero(~(squares < _LONGEST**2))
  if bad.size:
    raise errors.InputError(
      f"{name} of finite values",
      f"NaN, infinity or over {_LONGEST:g} in {bad.size} of {len(array)} rows"
      f" (first: {bad[0]})",
    )
  return array


# Attribute of an object-based checkpoint; what is written.
_ATTRIBUTE = "codebook"
# Variable of the original's k-means, read as well.
_CLUSTERS = "clusters"

# Codebooks that are kept for those who ask again: 4 of 65536 words of 128
# dimensions have 134 MB.
_KEPT = 4
_cache = collections.OrderedDict()
_lock = threading.Lock()


def read_codebook(path, size=None, dimension=None):
  """Reads a codebook; whoever asks for the same one shares one array.

  Args:
    path: Prefix of a TensorFlow checkpoint with the object `codebook` or the
      variable `clusters`, or a folder with one.
    size: Number of words that it must have, or None for any.
    dimension: Dimension that they must have, or None for any.

  Returns:
    [K, D] float32, not writable.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read, holds no codebook, or one of another shape
      or with values that are not finite.
  """
  from delf.formats import checkpoints

  reader, prefix = checkpoints.open_reader(_prefix(path))
  key, value_size = _find(reader, prefix)
  shape = reader.get_variable_to_shape_map()[key]
  _check_shape(shape, size, dimension, prefix)
  with _lock:
    known = (os.path.abspath(prefix), _stamp(prefix))
    codebook = _cache.pop(known, None)
    if codebook is None:
      _check_length(shape, value_size, prefix)
      with checkpoints.reading(prefix):
        codebook = reader.get_tensor(key)
      _check_finite(codebook, prefix)
      codebook = np.ascontiguousarray(codebook, dtype=np.float32)
      codebook.flags.writeable = False
    _cache[known] = codebook
    while len(_cache) > _KEPT:
      _cache.popitem(last=False)
  return codebook


def write_codebook(prefix, centers):
  """Writes a codebook, whole or not at all.

  Args:
    prefix: Prefix of the TensorFlow checkpoint to be, such as `out/codebook`;
      `tf.train.Checkpoint(codebook=tf.Variable(...))` reads it.
    centers: [K, D] float, finite.

  Raises:
    InputError: If it is of another shape, or has values that are not finite.
  """
  import tensorflow as tf

  from delf.formats import checkpoints

  centers = np.asarray(centers)
  _check_shape(centers.shape, None, None, prefix)
  _check_finite(centers, prefix)
  variable = tf.Variable(centers, dtype=tf.float32, name=_CLUSTERS)
  checkpoints.write(prefix, **{_ATTRIBUTE: variable})


def fingerprint(codebook):
  """Returns what tells a codebook from others: SHA-256, hexadecimal.

  Args:
    codebook: [K, D] float32.
  """
  return hashlib.sha256(np.ascontiguousarray(codebook)).hexdigest()


def _prefix(path):
  """Returns the prefix of a codebook in a folder, or else the path itself."""
  inside = os.path.join(path, _ATTRIBUTE)
  return inside if os.path.exists(f"{inside}.index") else path


def _stamp(prefix):
  """Returns what tells a checkpoint from a later one of the same name."""
  if files.is_remote(prefix):
    return None
  stats = map(os.stat, [f"{prefix}.index", *_data_files(prefix)])
  return tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)


def _data_files(prefix):
  folder, name = os.path.split(prefix)
  return [
    os.path.join(folder, file)
    for file in sorted(os.listdir(folder or "."))
    if file.startswith(f"{name}.data-")
  ]


def _find(reader, prefix):
  """Returns the key of the codebook, and the bytes of each of its values."""
  from delf.formats import checkpoints

  dtypes = reader.get_variable_to_dtype_map()
  keys = (f"{_ATTRIBUTE}{checkpoints.SUFFIX}", _CLUSTERS)
  key = next((key for key in keys if key in dtypes), None)
  if key is None:
    raise errors.InputError(
      f"a checkpoint with {' or '.join(keys)}",
      f"one with {_listed(set(dtypes) - {checkpoints.GRAPH})}",
      prefix,
    )
  if not dtypes[key].is_floating:
    raise errors.InputError("a codebook of floats", dtypes[key].name, prefix)
  return key, dtypes[key].size


def _check_shape(shape, size, dimension, path):
  words = (f"{size or 'K'}", f"{dimension or 'D'}")
  if (
    len(shape) != 2
    or 0 in shape
    or size not in (None, shape[0])
    or dimension not in (None, shape[1])
  ):
    raise errors.InputError(
      f"a codebook of shape [{', '.join(words)}]", f"{list(shape)}", path
    )


def _check_length(shape, value_size, prefix):
  """Raises an InputError if the files are too short for what they state."""
  if files.is_remote(prefix):
    return
  stored = sum(map(os.path.getsize, _data_files(prefix)))
  needed = shape[0] * shape[1] * value_size
  if stored < needed:
    raise errors.InputError(
      f"{needed} bytes for a codebook of shape {list(shape)}",
      f"{stored}",
      f"{prefix}.data-*",
    )


def _check_finite(centers, path):
  bad = np.flatnonzero(~np.isfinite(centers).all(axis=1))
  if bad.size:
    raise errors.InputError(
      "a codebook of finite values",
      f"NaN or infinity in {bad.size} of {len(centers)} words"
      f" (first: {bad[0]})",
      path,
    )


def _listed(keys, most=5):
  names = sorted(keys)
  more = f", and {len(names) - most} more" if len(names) > most else ""
  return (", ".join(names[:most]) or "nothing") + more
