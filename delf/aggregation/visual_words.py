"""Visual words: codebooks in files, and the nearest words of descriptors."""

import functools
import glob
import hashlib
import math
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from delf.base import arrays, errors, files
from delf.protos import aggregation_config_pb2

_GROUP = 16  # Words per group, which is first searched by its best score.
# With fewer words all scores are compared; with more, groups are faster
# (measured with 256 to 65536 words of 128 dimensions).
_FEW = 4096
# Scores in memory at once: 2 MB of float32 with few words, which stay in the
# processor's cache, and 16 MB with many; best scores of groups, 32 MB.
_TABLE = 1 << 19
_SCORES = 4_000_000
_MAXIMA = 8_000_000
_STEP = 1024  # Most descriptors per step.
_AGAIN = 1_000_000  # Values multiplied at once for the scores of chosen groups.
_CANDIDATES = 4_000_000  # Most candidates at once for several descriptors.
_NO_WORD = np.float32(-1e38)  # Score of padding, below that of any word.
_BLOCK = 1_000_000  # Differences of values in memory at once.


class Words:
  """Search for the nearest words of a codebook; threads may share it.

  `centers` are [K, D] float32.
  """

  def __init__(self, centers: np.ndarray) -> None:
    """Prepare the search; it takes as much memory as the centers [K, D]."""
    centers = np.asarray(centers)
    self.centers = arrays.check_descriptors(centers, name="visual words")
    if not self.centers.size:
      shape = list(self.centers.shape)
      raise errors.InputError(f"a codebook must have shape [K, D], not {shape}")
    self._scores = Scores(self.centers)

  def __len__(self) -> int:
    return self.centers.shape[0]

  @property
  def dimension(self) -> int:
    """Dimension of the words."""
    return self.centers.shape[1]

  def check(self, descriptors: np.ndarray) -> np.ndarray:
    """Return descriptors as [N, D] float32; an empty array becomes [0, D]."""
    array = np.asarray(descriptors)
    if not array.size:
      return np.zeros([0, self.dimension], np.float32)
    return arrays.check_descriptors(array, self.dimension, "features")

  def nearest(self, descriptors: np.ndarray, number: int = 1) -> np.ndarray:
    """Find the nearest words of descriptors [N, D], by Euclidean distance.

    Returns [N, number] int32, nearest first, ties by lower index. Exact up to
    rounding in float64.
    """
    return self.nearest_of_checked(self.check(descriptors), number)

  def nearest_of_checked(
    self, descriptors: np.ndarray, number: int
  ) -> np.ndarray:
    """Find the nearest words of descriptors that `check` has returned."""
    if not 1 <= number <= len(self):
      choices = f"1 to {len(self)}, the number of words, not {number}"
      raise errors.InputError(f"num_assignments must be {choices}")
    nearest = np.empty([len(descriptors), number], dtype=np.int32)
    step = max(1, _BLOCK // self.dimension)
    for rows, word, of in self._scores.candidates(descriptors, number):
      some = descriptors[rows]
      if number > 1 or len(word) > len(some):
        distances = np.empty([len(word)])
        for start in range(0, len(word), step):
          pairs = slice(start, start + step)
          difference = some[of[pairs]].astype(np.float64)
          difference -= self.centers[word[pairs]]
          distances[pairs] = np.einsum("ij,ij->i", difference, difference)
        # A stable sort keeps words at the same distance ascending.
        order = np.argsort(distances, kind="stable")
        order = order[arrays.stable_argsort(of[order])]
        word, of = word[order], of[order]
      first = np.searchsorted(of, np.arange(len(some)))
      nearest[rows] = word[first[:, np.newaxis] + np.arange(number)]
    return nearest


class Scores:
  """Search for candidates of the nearest words, by float32 products.

  The score of a word c for a descriptor x is x c - |c|^2 / 2, which is highest
  for the nearest word; candidates are within the rounding error of the best.
  """

  def __init__(self, centers: np.ndarray) -> None:
    """Prepare words [K, D]; it takes as much memory as they do."""
    # Centring keeps distances and reduces rounding errors.
    self._number, dimension = centers.shape
    origin = centers.mean(axis=0, dtype=np.float64)
    self._origin = origin.astype(np.float32)
    # Centred words, each followed by -|c|^2 / 2, padded to whole groups.
    padded = -(-self._number // _GROUP) * _GROUP
    self._rows = np.zeros([padded, dimension + 1], dtype=np.float32)
    own, padding = self._rows[: self._number], self._rows[self._number :]
    np.subtract(centers, self._origin, out=own[:, :-1])
    own[:, -1] = np.einsum("ij,ij->i", own[:, :-1], own[:, :-1]) / -2
    padding[:, -1] = _NO_WORD
    self._longest = float(np.sqrt(-2 * np.min(own[:, -1])))

  def candidates(
    self, descriptors: np.ndarray, number: int
  ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find the words that may be among the `number` nearest of descriptors.

    Yields consecutive slices of the descriptors, with words [P] and the index
    [P] of the descriptor of each word within the slice, both int. A descriptor
    has at least `number` words; indices and the words of each are ascending.
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
    """Return centred descriptors followed by 1, and twice the error bound."""
    # A sum of D products in any order has an error under D u sum |x c|, where u
    # is the unit roundoff of float32 (N. Higham, Accuracy and Stability of
    # Numerical Algorithms, section 3.1); 8 more for values rounded before.
    dimension = descriptors.shape[1]
    centred = np.ones([len(descriptors), dimension + 1], np.float32)
    np.subtract(descriptors, self._origin, out=centred[:, :-1])
    lengths = np.sqrt(np.einsum("ij,ij->i", centred, centred))  # Over |x|.
    longest, unit = self._longest, np.finfo(np.float32).eps / 2
    error = (dimension + 8) * unit * (lengths + longest) * longest
    return centred, (2 * error).astype(np.float32)

  def _of_many(self, rows, centred, slack, number):
    """Yield `candidates` from the best scores of groups."""
    maxima = self._maxima(centred)
    least = _nth_highest_of_many(maxima, number) - slack
    group, of = np.nonzero(maxima >= least)
    if len(group) * _GROUP > _CANDIDATES and len(centred) > 1:
      # Many words may be equal: fewer descriptors at once limit the memory.
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
    """Return the best score of each group of words, [groups, N] float32."""
    number, words = len(centred), len(self._rows)
    maxima = np.empty([words // _GROUP, number], dtype=np.float32)
    step = max(2048, _SCORES // number // _GROUP * _GROUP)
    table = np.empty([min(step, words), number], dtype=np.float32)
    for start in range(0, words, step):
      rows = self._rows[start : start + step]
      scores = np.matmul(rows, centred.T, out=table[: len(rows)])
      scores = scores.reshape(-1, _GROUP, number)
      some = slice(start // _GROUP, (start + step) // _GROUP)
      scores.max(axis=1, out=maxima[some])
    return maxima

  def _again(self, centred, group, of, least):
    """Return word, descriptor and score [P] of pairs that reach `least`."""
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
  if groups >= 2 * number:  # Few of the best scores then share a group.
    scores = scores.reshape(len(scores), _GROUP, groups).max(axis=1)
  return np.partition(scores, -number, axis=1)[:, -number]


def _nth_highest_of_many(maxima, number):
  """Return a bound, [N], that at least `number` of [groups, N] maxima reach."""
  while len(maxima) >= max(2, number) * _GROUP:
    whole = len(maxima) // _GROUP * _GROUP
    coarse = maxima[:whole].reshape(-1, _GROUP, maxima.shape[1])
    maxima = coarse.max(axis=1)
  return np.partition(maxima, len(maxima) - number, axis=0)[-number]


# Attribute of an object-based checkpoint, which is written and read, and the
# variable of the original's k-means, which is only read.
_ATTRIBUTE, _CLUSTERS = "codebook", "clusters"
# Cached codebooks: 4 with 65536 words of 128 dimensions take 134 MB.
_KEPT = 4
_lock = threading.Lock()


def read_codebook(
  path: files.Path, size: int | None = None, dimension: int | None = None
) -> np.ndarray:
  """Read a codebook, [K, D] float32, read-only and shared by all readers.

  The path is the prefix of a TensorFlow checkpoint with the object `codebook`
  or the variable `clusters`, or a folder with one. `size` K and `dimension` D
  are checked unless None.
  """
  from delf.formats import checkpoints

  inside = os.path.join(path, _ATTRIBUTE)
  path = inside if os.path.exists(f"{inside}.index") else path
  reader, prefix = checkpoints.open_reader(path)
  key, value_size = _find(reader, prefix)
  shape = reader.get_variable_to_shape_map()[key]
  _check_shape(shape, size, dimension, prefix)
  stamp: tuple = ()
  if not files.is_remote(prefix):
    # The stamp differs for a later checkpoint of the same name.
    parts = sorted(glob.glob(f"{glob.escape(prefix)}.data-*"))
    stats = [os.stat(part) for part in (f"{prefix}.index", *parts)]
    stamp = tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)
    stored = sum(size for *_, size in stamp[1:])
    if stored < (needed := math.prod(shape) * value_size):
      needs = f"a codebook of shape {list(shape)} needs {needed} bytes"
      path = f"{prefix}.data-*"
      raise errors.InputError(f"{needs}, but the file has {stored}", path=path)
  with _lock:  # Concurrent readers of a codebook read it once.
    return _read(prefix, key, stamp)


@functools.lru_cache(_KEPT)
def _read(prefix, key, stamp):
  """Read a codebook; the stamp is part of the key of the cache."""
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
  """Read the codebook of a configuration, and check its size."""
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
  """Return the SHA-256 of a codebook [K, D] float32, in hexadecimal."""
  return hashlib.sha256(np.ascontiguousarray(codebook).data).hexdigest()


def _find(reader: Any, prefix):
  """Return the key of the codebook, and the size of a value in bytes."""
  from delf.formats import checkpoints

  dtypes = reader.get_variable_to_dtype_map()
  keys = (f"{_ATTRIBUTE}{checkpoints.SUFFIX}", _CLUSTERS)
  key = next((key for key in keys if key in dtypes), None)
  if key is None:
    names = sorted(set(dtypes) - {checkpoints.GRAPH})
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    listed = (", ".join(names[:5]) or "nothing") + more
    message = f"the checkpoint has no {' or '.join(keys)}, but {listed}"
    raise errors.InputError(message, path=prefix)
  if not dtypes[key].is_floating:
    message = f"a codebook must have floats, not {dtypes[key].name}"
    raise errors.InputError(message, path=prefix)
  return key, dtypes[key].size


def _check_shape(shape, size, dimension, path):
  wanted = (size, dimension) if len(shape) == 2 else ()
  fits = [n > 0 and m in (None, n) for n, m in zip(shape, wanted, strict=False)]
  if not fits or not all(fits):
    needed = f"[{size or 'K'}, {dimension or 'D'}]"
    message = f"the codebook must have shape {needed}, not {list(shape)}"
    raise errors.InputError(message, path=path)
