"""Visual words: codebooks in files, and the nearest words of descriptors."""

import functools
import glob
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from delf.base import arrays, errors, files
from delf.protos import aggregation_config_pb2

# Words whose best score stands for all of them.
_GROUP = 16
# Words of which all scores are held; from there on groups are faster (measured
# from 256 to 65536 words of 128 values).
_FEW = 4096
# Scores held at once: of few words 2 MB of float32, which stay in a processor's
# cache, and of many 16 MB; best scores of groups, 32 MB.
_TABLE = 1 << 19
_SCORES = 4_000_000
_MAXIMA = 8_000_000
# Most descriptors of a step.
_STEP = 1024
# Values of descriptors and words that are multiplied again at once.
_AGAIN = 1_000_000
# Words that are returned at once for more than one descriptor.
_CANDIDATES = 4_000_000
# A score lower than that of any word, for padding.
_NO_WORD = np.float32(-1e38)
# Values of descriptors and words whose differences are held at once.
_BLOCK = 1_000_000


class Words:
  """The words of a codebook, ready to be searched. Threads may share it.

  `centers` are [K, D] float32.
  """

  def __init__(self, centers: np.ndarray):
    """Prepare the search in [K, D]; it takes as much memory as they do."""
    self.centers = arrays.check_descriptors(
      np.asarray(centers), name="visual words"
    )
    if not self.centers.size:
      raise errors.InputError(
        "a codebook of shape [K, D]", f"{list(self.centers.shape)}"
      )
    self._scores = Scores(self.centers)

  def __len__(self):
    return self.centers.shape[0]

  @property
  def dimension(self) -> int:
    """Dimension of the words."""
    return self.centers.shape[1]

  def check(self, descriptors: np.ndarray) -> np.ndarray:
    """Return descriptors as [N, D] float32; any empty array stands for none."""
    array = np.asarray(descriptors)
    if not array.size:
      return np.zeros([0, self.dimension], np.float32)
    return arrays.check_descriptors(array, self.dimension, "features")

  def nearest(self, descriptors: np.ndarray, number: int = 1) -> np.ndarray:
    """Find the nearest words of [N, D] descriptors, by Euclidean distance.

    They are [N, number] int32, nearest first; of words at the same distance the
    one of the lower index first. Exact up to rounding in float64.
    """
    return self.nearest_of_checked(self.check(descriptors), number)

  def nearest_of_checked(
    self, descriptors: np.ndarray, number: int
  ) -> np.ndarray:
    """As `nearest`, of descriptors that `check` has returned."""
    if not 1 <= number <= len(self):
      raise errors.InputError(
        f"1 to {len(self)} words for each feature (num_assignments)", number
      )
    nearest = np.empty([len(descriptors), number], dtype=np.int32)
    for rows, word, of in self._scores.candidates(descriptors, number):
      some = descriptors[rows]
      if number > 1 or len(word) > len(some):
        # Words at the same distance stay ascending, as they come.
        order = np.argsort(self._distances(some, word, of), kind="stable")
        order = order[arrays.stable_argsort(of[order])]
        word, of = word[order], of[order]
      first = np.searchsorted(of, np.arange(len(some)))
      nearest[rows] = word[first[:, np.newaxis] + np.arange(number)]
    return nearest

  def _distances(self, descriptors, word, of):
    """Return the squared distances of pairs, [P] float64."""
    distances = np.empty([len(word)])
    step = max(1, _BLOCK // self.dimension)
    for start in range(0, len(word), step):
      some = slice(start, start + step)
      difference = descriptors[of[some]].astype(np.float64)
      difference -= self.centers[word[some]]
      distances[some] = np.einsum("ij,ij->i", difference, difference)
    return distances


class Scores:
  """Candidates among words for the nearest, by float32 products.

  The score of a word c for a descriptor x is x c - |c|^2 / 2, which is highest
  for the nearest; candidates are within its rounding error.
  """

  def __init__(self, centers: np.ndarray):
    """Prepare [K, D] words; takes as much memory as they do."""
    # Distances do not change when the origin does, and rounding errors shrink.
    self._number, dimension = centers.shape
    origin = centers.mean(axis=0, dtype=np.float64)
    self._origin = origin.astype(np.float32)
    # Centred words, each with -|c|^2 / 2 behind it, in whole groups.
    padded = -(-self._number // _GROUP) * _GROUP
    self._rows = np.zeros([padded, dimension + 1], dtype=np.float32)
    own, padding = self._rows[: self._number], self._rows[self._number :]
    np.subtract(centers, self._origin, out=own[:, :-1])
    own[:, -1] = np.einsum("ij,ij->i", own[:, :-1], own[:, :-1]) / -2
    padding[:, -1] = _NO_WORD
    self._longest = float(np.sqrt(-2 * own[:, -1].min()))

  def candidates(
    self, descriptors: np.ndarray, number: int
  ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find the words that may be among the `number` nearest of descriptors.

    Yields slices of the descriptors, one after the other; [P] int words, at
    least `number` for each of these, and all that may be among the nearest; and
    [P] int, which of these descriptors each is for, ascending, as are the words
    of each.
    """
    few = self._number < max(_FEW, number * _GROUP**2)
    held = _TABLE if few else _MAXIMA * _GROUP
    step = min(_STEP, max(1, held // len(self._rows)))
    for first in range(0, len(descriptors), step):
      rows = slice(first, min(first + step, len(descriptors)))
      centred, slack = self._prepared(descriptors[rows])
      if not few:
        yield from self._of_many(rows, centred, slack, number)
        continue
      scores = centred @ self._rows.T
      least = _nth_highest(scores, number) - slack
      hits = np.flatnonzero(scores >= least[:, np.newaxis])
      of, word = np.divmod(hits, scores.shape[1])
      yield rows, word, of

  def _prepared(self, descriptors):
    """Return centred descriptors with ones behind, and twice the error."""
    # A sum of D products in any order has an error under D u sum |x c|, where u
    # is float32's unit of rounding (N. Higham, Accuracy and Stability of
    # Numerical Algorithms, section 3.1); some more for parts rounded before.
    dimension = descriptors.shape[1]
    centred = np.ones([len(descriptors), dimension + 1], np.float32)
    np.subtract(descriptors, self._origin, out=centred[:, :-1])
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))  # Over |x|.
    longest, unit = self._longest, np.finfo(np.float32).eps / 2
    error = (dimension + 8) * unit * (lengths + longest) * longest
    return centred, (2 * error).astype(np.float32)

  def _of_many(self, rows, centred, slack, number):
    """Yield what `candidates` does, from the best scores of groups."""
    maxima = self._maxima(centred)
    least = _nth_highest_of_many(maxima, number) - slack
    group, of = np.nonzero(maxima >= least)
    if len(group) * _GROUP > _CANDIDATES and len(centred) > 1:
      # As where many words are one: fewer at once, so that memory stays.
      middle = len(centred) // 2
      for half in (slice(0, middle), slice(middle, len(centred))):
        part = slice(rows.start + half.start, rows.start + half.stop)
        yield from self._of_many(part, centred[half], slack[half], number)
      return
    hits = self._again(centred, group, of, least)
    order = arrays.stable_argsort(hits[1])
    word, of, score = (each[order] for each in hits)
    best = score[np.lexsort([-score, of])]
    first = np.searchsorted(of, np.arange(len(centred)))
    least = best[first + number - 1] - slack
    keep = score >= least[of]
    yield rows, word[keep], of[keep]

  def _maxima(self, centred):
    """Return the best scores of groups of words, [groups, N] float32."""
    number, words = len(centred), len(self._rows)
    maxima = np.empty([words // _GROUP, number], dtype=np.float32)
    step = max(2048, _SCORES // number // _GROUP * _GROUP)
    table = np.empty([min(step, words), number], dtype=np.float32)
    for start in range(0, words, step):
      rows = self._rows[start : start + step]
      scores = np.matmul(rows, centred.T, out=table[: len(rows)])
      scores = scores.reshape(-1, _GROUP, number)
      some = slice(start // _GROUP, (start + step) // _GROUP)
      np.maximum.reduce(scores, axis=1, out=maxima[some])
    return maxima

  def _again(self, centred, group, of, least):
    """Return word, descriptor and score [P] of pairs with at least `least`."""
    parts = []
    step = max(1, _AGAIN // (_GROUP * centred.shape[1]))
    rows = self._rows.reshape(-1, _GROUP, centred.shape[1])
    for start in range(0, len(group), step):
      some = slice(start, start + step)
      own = of[some]
      scores = np.einsum("pgd,pd->pg", rows[group[some]], centred[own])
      pair, member = np.nonzero(scores >= least[own][:, np.newaxis])
      word = group[some][pair] * _GROUP + member
      parts.append((word, own[pair], scores[pair, member]))
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _nth_highest(scores, number):
  """Return a bound, [N], that at least `number` of [N, K] scores reach."""
  if number == 1:
    return scores.max(axis=1)
  groups = scores.shape[1] // _GROUP
  if groups >= 2 * number:  # So many of the best are in different ones.
    scores = scores.reshape(len(scores), _GROUP, groups).max(axis=1)
  return np.partition(scores, -number, axis=1)[:, -number]


def _nth_highest_of_many(maxima, number):
  """Return a bound, [N], that at least `number` of [groups, N] maxima reach."""
  while len(maxima) >= max(2, number) * _GROUP:
    whole = len(maxima) // _GROUP * _GROUP
    coarse = maxima[:whole].reshape(-1, _GROUP, maxima.shape[1])
    maxima = np.maximum.reduce(coarse, axis=1)
  return np.partition(maxima, len(maxima) - number, axis=0)[-number]


# Attribute of an object-based checkpoint, which is written; and the variable of
# the original's k-means, which is read as well.
_ATTRIBUTE, _CLUSTERS = "codebook", "clusters"
# Codebooks that are kept for later readers: 4 of 65536 words of 128 dimensions
# have 134 MB.
_KEPT = 4
_lock = threading.Lock()


def read_codebook(
  path: files.Path, size: int | None = None, dimension: int | None = None
) -> np.ndarray:
  """Read a codebook, [K, D] float32, not writable; readers share one array.

  The path is the prefix of a TensorFlow checkpoint with the object `codebook`
  or the variable `clusters`, or a folder with one. K and D must be `size` and
  `dimension` unless these are None.
  """
  from delf.formats import checkpoints

  inside = os.path.join(path, _ATTRIBUTE)
  path = inside if os.path.exists(f"{inside}.index") else path
  reader, prefix = checkpoints.open_reader(path)
  key, value_size = _find(reader, prefix)
  shape = reader.get_variable_to_shape_map()[key]
  _check_shape(shape, size, dimension, prefix)
  stamp = ()
  if not files.is_remote(prefix):
    # What tells a checkpoint from a later one of the same name.
    parts = sorted(glob.glob(f"{glob.escape(prefix)}.data-*"))
    stats = [os.stat(part) for part in (f"{prefix}.index", *parts)]
    stamp = tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)
    stored, needed = sum(size for *_, size in stamp[1:]), shape[0] * shape[1]
    if stored < needed * value_size:
      raise errors.InputError(
        f"{needed * value_size} bytes for a codebook of shape {list(shape)}",
        f"{stored}",
        f"{prefix}.data-*",
      )
  with _lock:  # Threads that want one codebook read it once.
    return _read(prefix, key, stamp)


@functools.lru_cache(_KEPT)
def _read(prefix, key, stamp):
  """Return a codebook; of files with another stamp it is another."""
  from delf.formats import checkpoints

  reader, _ = checkpoints.open_reader(prefix)
  with checkpoints.reading(prefix):
    codebook = reader.get_tensor(key)
  arrays.check_finite(codebook, "visual words", prefix)
  codebook = np.ascontiguousarray(codebook, dtype=np.float32)
  codebook.flags.writeable = False
  return codebook


def read_configured(
  config: aggregation_config_pb2.AggregationConfig,
) -> np.ndarray:
  """Read the codebook that a configuration names, of the size that it says."""
  return read_codebook(
    config.codebook_path, config.codebook_size, config.feature_dimensionality
  )


def write_codebook(prefix: files.Path, centers: np.ndarray) -> None:
  """Write a codebook [K, D], whole or not at all, as a TensorFlow checkpoint.

  `tf.train.Checkpoint(codebook=tf.Variable(...))` reads it.
  """
  import tensorflow as tf

  from delf.formats import checkpoints

  centers = np.asarray(centers)
  _check_shape(centers.shape, None, None, prefix)
  arrays.check_finite(centers, "visual words", prefix)
  variable = tf.Variable(centers, dtype=tf.float32, name=_CLUSTERS)
  checkpoints.write(prefix, **{_ATTRIBUTE: variable})


def fingerprint(codebook: np.ndarray) -> str:
  """SHA-256 of a codebook [K, D] float32, hexadecimal."""
  return hashlib.sha256(np.ascontiguousarray(codebook)).hexdigest()


def _find(reader: Any, prefix):
  """Return the key of the codebook, and the bytes of each of its values."""
  from delf.formats import checkpoints

  dtypes = reader.get_variable_to_dtype_map()
  keys = (f"{_ATTRIBUTE}{checkpoints.SUFFIX}", _CLUSTERS)
  key = next((key for key in keys if key in dtypes), None)
  if key is None:
    names = sorted(set(dtypes) - {checkpoints.GRAPH})
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    listed = (", ".join(names[:5]) or "nothing") + more
    raise errors.InputError(
      f"a checkpoint with {' or '.join(keys)}", f"one with {listed}", prefix
    )
  if not dtypes[key].is_floating:
    raise errors.InputError("a codebook of floats", dtypes[key].name, prefix)
  return key, dtypes[key].size


def _check_shape(shape, size, dimension, path):
  if (
    len(shape) != 2
    or 0 in shape
    or size not in (None, shape[0])
    or dimension not in (None, shape[1])
  ):
    raise errors.InputError(
      f"a codebook of shape [{size or 'K'}, {dimension or 'D'}]",
      f"{list(shape)}",
      path,
    )
