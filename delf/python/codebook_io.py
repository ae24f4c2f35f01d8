"""Codebooks of visual words, as TensorFlow checkpoints."""

import collections
import hashlib
import os
import threading

import numpy as np

from delf.python import errors, files

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
  from delf.python import checkpoint_io

  reader, prefix = checkpoint_io.open_reader(_prefix(path))
  key, value_size = _find(reader, prefix)
  shape = reader.get_variable_to_shape_map()[key]
  _check_shape(shape, size, dimension, prefix)
  with _lock:
    known = (os.path.abspath(prefix), _stamp(prefix))
    codebook = _cache.pop(known, None)
    if codebook is None:
      _check_length(shape, value_size, prefix)
      with checkpoint_io.reading(prefix):
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

  from delf.python import checkpoint_io

  centers = np.asarray(centers)
  _check_shape(centers.shape, None, None, prefix)
  _check_finite(centers, prefix)
  variable = tf.Variable(centers, dtype=tf.float32, name=_CLUSTERS)
  checkpoint_io.write(prefix, **{_ATTRIBUTE: variable})


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
  from delf.python import checkpoint_io

  dtypes = reader.get_variable_to_dtype_map()
  keys = (f"{_ATTRIBUTE}{checkpoint_io.SUFFIX}", _CLUSTERS)
  key = next((key for key in keys if key in dtypes), None)
  if key is None:
    raise errors.InputError(
      f"a checkpoint with {' or '.join(keys)}",
      f"one with {_listed(set(dtypes) - {checkpoint_io.GRAPH})}",
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
