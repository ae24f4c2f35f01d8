"""TensorFlow checkpoints: opening, errors as one line, writing whole."""

import contextlib
import errno
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from delf.base import errors, files

# Key in an object-based checkpoint: path of the variable, and this.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Key of the graph of objects that TensorFlow stores besides.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Bytes of an index that have its header in them.
_START = 64
# What TensorFlow adds to a message.
_INTERNALS = re.compile(r"\{\{.*?\}\}|\[Op:\w+\]")
# Ends of the names of a checkpoint's files, behind its prefix.
_FILE_OF = re.compile(r"\.(index|data-\d+-of-\d+)$")


class DamagedError(errors.InputError):
  """A checkpoint is cut, damaged or no checkpoint at all."""


def open_reader(path: files.Path) -> tuple[Any, str]:
  """Open a checkpoint; return a reader, for `reading(prefix)`, and the prefix.

  The path is a prefix of a TensorFlow checkpoint, or its `.index` file, or a
  folder with a `checkpoint` file, whose newest one is opened.
  """
  import tensorflow as tf

  prefix = _FILE_OF.sub("", os.fspath(path))
  if tf.io.gfile.isdir(prefix):
    with reading(prefix):
      newest = tf.train.latest_checkpoint(prefix)
    if newest is None:
      raise FileNotFoundError(f"{path}: expected a checkpoint, found none")
    prefix = newest
  if not tf.io.gfile.exists(f"{prefix}.index"):
    raise FileNotFoundError(
      f"{path}: expected a checkpoint, with its {prefix}.index; found none"
    )
  with reading(prefix):
    return tf.train.load_checkpoint(prefix), prefix


@contextlib.contextmanager
def reading(prefix: str) -> Iterator[None]:
  """Turn TensorFlow's errors about a checkpoint into a DamagedError."""
  import tensorflow as tf

  try:
    yield
  # As it raises for files that are cut, damaged, or of another kind.
  except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise DamagedError(
      "expected a whole TensorFlow checkpoint, received one that cannot be "
      f"read ({reason})",
      path=prefix,
    ) from None


@contextlib.contextmanager
def writing(label: str, path: files.Path) -> Iterator[None]:
  """Turn TensorFlow's errors while writing, as on a full disk, into OSError."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    # "{{node of a graph}} path of a temporary file; reason [Op:...]", and more.
    first = _INTERNALS.sub("", error.message).strip().splitlines()[0]
    text = f"{label} cannot be written ({first.rpartition('; ')[2].strip()})"
    raise OSError(errno.EIO, text, os.fspath(path)) from None


def write(path: files.Path, **trackables: Any) -> str:
  """Write a checkpoint of `trackables`; return its prefix, `path`.

  An existing one is readable until the new one is whole. Both are data and an
  index, which cannot be replaced at once: the data are in one part, or, where
  those exist, in two, under other names, and the index is written last.
  """
  import tensorflow as tf

  path = os.fspath(path)
  checkpoint = tf.train.Checkpoint(**trackables)
  parts = 2 if _count_parts(path) == 1 else 1
  options = tf.train.CheckpointOptions(
    experimental_sharding_callback=_in_parts(parts)
  )
  with writing("the checkpoint", path):
    if files.is_remote(path):
      checkpoint.write(path, options)
    else:
      folder, name = pathlib.Path(path).parent, os.path.basename(path)
      folder.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryDirectory(dir=folder, prefix=".weights.") as new:
        checkpoint.write(os.path.join(new, name), options)
        # "...data-00000-of-00001" sorts before "...index".
        for file in sorted(pathlib.Path(new).glob("*")):
          os.replace(file, folder / file.name)
  folder, name = os.path.split(path)
  for file in tf.io.gfile.listdir(folder or "."):
    beginning, _, count = file.rpartition("-of-")
    if beginning.startswith(f"{name}.data-") and count != f"{parts:05d}":
      tf.io.gfile.remove(os.path.join(folder, file))
  return path


def _count_parts(prefix):
  """Return the number of data files of a checkpoint; 0 if there is none."""
  import tensorflow as tf
  from google.protobuf import message
  from tensorflow.core.protobuf import tensor_bundle_pb2

  if not tf.io.gfile.exists(f"{prefix}.index"):
    return 0
  with tf.io.gfile.GFile(f"{prefix}.index", "rb") as file:
    start = file.read(_START)
  # A LevelDB table, whose first entry is: no bytes of key, length of the
  # header, header.
  try:
    header = start[3 : 3 + start[2]]
    return tensor_bundle_pb2.BundleHeaderProto.FromString(header).num_shards
  except (IndexError, message.DecodeError):
    return 0  # Damaged: nothing to keep.


def _in_parts(number):
  """Return a callback that divides tensors among files, by turns."""
  import tensorflow as tf

  class InParts(tf.train.experimental.ShardingCallback):
    description = f"{number} parts"

    def __call__(self, shardable_tensors):
      parts = [{} for _ in range(number)]
      for i, each in enumerate(shardable_tensors):
        slices = parts[i % number].setdefault(each.checkpoint_key, {})
        slices[each.slice_spec] = each.tensor
      return [part for part in parts if part]

  return InParts()
