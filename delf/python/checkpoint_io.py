"""TensorFlow checkpoints: opening, errors as one line, writing whole."""

import contextlib
import os
import pathlib
import tempfile

from delf.python import errors, files

# Key in an object-based checkpoint: path of the variable, and this.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# Key of the graph of objects that TensorFlow stores besides.
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def open_reader(path):
  """Opens a checkpoint.

  Args:
    path: Prefix of a TensorFlow checkpoint, or its `.index` file, or a folder
      with a `checkpoint` file, whose newest one is opened.

  Returns:
    A reader (`tf.train.load_checkpoint`), and the prefix, a str. What is read
    from it is to be read within `reading(prefix)`.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    InputError: If it cannot be read.
  """
  import tensorflow as tf

  prefix = os.fspath(path).removesuffix(".index")
  if tf.io.gfile.isdir(prefix):
    with reading(prefix):
      newest = tf.train.latest_checkpoint(prefix)
    if newest is None:
      raise FileNotFoundError(f"{path}: expected a checkpoint, found none")
    prefix = newest
  if not tf.io.gfile.exists(f"{prefix}.index"):
    raise FileNotFoundError(f"{prefix}.index: expected a file, found none")
  with reading(prefix):
    return tf.train.load_checkpoint(prefix), prefix


@contextlib.contextmanager
def reading(prefix):
  """Turns what TensorFlow raises of a checkpoint into an InputError."""
  import tensorflow as tf

  try:
    yield
  # What it raises for files that are cut, damaged, or of another kind.
  except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
    reason = str(error).splitlines()[0]
    raise errors.InputError(
      "a whole TensorFlow checkpoint",
      f"one that cannot be read ({reason})",
      prefix,
    ) from None


def write(path, **trackables):
  """Writes a checkpoint.

  Args:
    path: Its prefix. `path`.index is written last, so that one that exists is
      whole. Missing folders are made.
    **trackables: What `tf.train.Checkpoint` takes, such as tf.Variable.

  Returns:
    str, `path`.
  """
  import tensorflow as tf

  path = os.fspath(path)
  checkpoint = tf.train.Checkpoint(**trackables)
  if files.is_remote(path):
    checkpoint.write(path)
    return path
  folder = pathlib.Path(path).parent
  folder.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder, prefix=".weights.") as temporary:
    checkpoint.write(os.path.join(temporary, pathlib.Path(path).name))
    for file in sorted(pathlib.Path(temporary).glob("*")):
      # "...data-00000-of-00001" sorts before "...index".
      os.replace(file, folder / file.name)
  return path
