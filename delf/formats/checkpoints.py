"""TensorFlow checkpoints: reading, errors of one line, atomic writing."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from delf.base import errors, files

# Ending of a key of an object-based checkpoint, after the variable's path.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Key of the graph of objects, which TensorFlow stores as well.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

# Bytes at the start of an index that include its header.
_START = 64
# TensorFlow's additions to a message.
_INTERNALS = re.compile(r"\{\{.*?\}\}|\[Op:\w+\]")
# Endings of a checkpoint's file names, after its prefix.
_FILE_OF = re.compile(r"\.(index|data-\d+-of-\d+)$")


class DamagedError(errors.InputError):
  """A checkpoint is cut, damaged or no checkpoint at all."""


def open_reader(path: files.Path) -> tuple[Any, str]:
  """Open a checkpoint; return a reader, to use in `reading`, and the prefix.

  The path is the prefix of a TensorFlow checkpoint, its `.index` file, or a
  folder with a `checkpoint` file, of which the newest checkpoint is opened.
  """
  import tensorflow as tf

  prefix = _FILE_OF.sub("", os.fspath(path))
  if tf.io.gfile.isdir(prefix):
    with reading(prefix):
      newest = tf.train.latest_checkpoint(prefix)
    if newest is None:
      raise FileNotFoundError(f"{path}: no checkpoint in this folder")
    prefix = newest
  if not tf.io.gfile.exists(f"{prefix}.index"):
    raise FileNotFoundError(f"{path}: no such checkpoint ({prefix}.index)")
  with reading(prefix):
    return tf.train.load_checkpoint(prefix), prefix


@contextlib.contextmanager
def reading(prefix: str) -> Iterator[None]:
  """Turn TensorFlow's errors about a checkpoint into a DamagedError."""
  import tensorflow as tf

  try:
    yield
  # The errors for truncated, damaged and other files.
  except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    problem = f"this is not a whole TensorFlow checkpoint ({reason})"
    raise DamagedError(problem, path=prefix) from None


@contextlib.contextmanager
def writing(label: str, path: files.Path) -> Iterator[None]:
  """Turn TensorFlow's errors while writing, as of a full disk, into OSError."""
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    # "{{node of a graph}} path of a temporary file; reason [Op:...]" and more.
    first = _INTERNALS.sub("", error.message).strip().splitlines()[0]
    text = f"{label} cannot be written ({first.rpartition('; ')[2].strip()})"
    raise OSError(errno.EIO, text, os.fspath(path)) from None


def write(path: files.Path, **trackables: Any) -> str:
  """Write a checkpoint of `trackables` and return its prefix.

  An existing checkpoint stays readable until the new one is complete: new data
  have other names, as they are in one part or two in turn; the index is last.
  """
  import tensorflow as tf

  prefix = os.fspath(path)
  checkpoint = tf.train.Checkpoint(**trackables)
  parts = 2 if _count_parts(prefix) == 1 else 1
  options = tf.train.CheckpointOptions(
    experimental_sharding_callback=_in_parts(parts)
  )
  folder, name = os.path.split(prefix)
  with writing("the checkpoint", prefix):
    if files.is_remote(prefix):
      checkpoint.write(prefix, options)
    else:
      os.makedirs(folder or ".", exist_ok=True)
      with tempfile.TemporaryDirectory(dir=folder, prefix=".weights.") as new:
        checkpoint.write(os.path.join(new, name), options)
        # "...data-00000-of-00001" sorts before "...index".
        for file in sorted(os.listdir(new)):
          os.replace(os.path.join(new, file), os.path.join(folder, file))
  for file in tf.io.gfile.listdir(folder or "."):
    beginning, _, count = file.rpartition("-of-")
    if beginning.startswith(f"{name}.data-") and count != f"{parts:05d}":
      tf.io.gfile.remove(os.path.join(folder, file))
  return prefix


def _count_parts(prefix):
  """Return the number of data files of a checkpoint, 0 if it does not exist."""
  import tensorflow as tf
  from google.protobuf import message
  from tensorflow.core.protobuf import tensor_bundle_pb2

  if not tf.io.gfile.exists(f"{prefix}.index"):
    return 0
  with tf.io.gfile.GFile(f"{prefix}.index", "rb") as file:
    start = file.read(_START)
  # A LevelDB table: an empty key, the length of the header, and the header.
  try:
    header = start[3 : 3 + start[2]]
    return tensor_bundle_pb2.BundleHeaderProto.FromString(header).num_shards
  except (IndexError, message.DecodeError):
    return 0  # Damaged, so there is nothing to keep.


def _in_parts(number):
  """Return a callback that distributes tensors among files in turn."""
  import tensorflow as tf

  class InParts(tf.train.experimental.ShardingCallback):
    description = f"{number} parts"

    def __call__(self, shardable_tensors):
      parts: list[dict] = [{} for _ in range(number)]
      for i, each in enumerate(shardable_tensors):
        slices = parts[i % number].setdefault(each.checkpoint_key, {})
        slices[each.slice_spec] = each.tensor
      return [part for part in parts if part]

  return InParts()
