"""Keeps the messages of TensorFlow's start off standard error."""

import contextlib
import importlib.abc
import importlib.util
import os
import shutil
import sys
import tempfile

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def silence_tensorflow():
  """Silences TensorFlow, unless the user has set `TF_CPP_MIN_LOG_LEVEL`.

  The level (3 leaves fatal errors) is read by TensorFlow's C++ side. What its
  libraries say while they are loaded, on CPU features and missing CUDA, obeys
  no setting (TensorFlow 2.21), so standard error is held back during that
  import; it is shown if the import fails.
  """
  if _LEVEL in os.environ:
    return
  os.environ[_LEVEL] = "3"
  if "tensorflow" not in sys.modules:
    sys.meta_path.insert(0, _TensorflowFinder())


class _TensorflowFinder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow as usual, and has it loaded in silence, once."""

  def find_spec(self, fullname, path, target=None):
    if fullname != "tensorflow":
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(fullname)
    if spec is not None and spec.loader is not None:
      load = spec.loader.exec_module

      def load_quietly(module):
        with held_stderr():
          load(module)

      spec.loader.exec_module = load_quietly
    return spec


@contextlib.contextmanager
def held_stderr():
  """Holds back what the process writes to standard error, C++ code included.

  It is dropped at the end, or written after all if an error passes.
  """
  try:
    saved = os.dup(2)
  except OSError:  # Standard error is closed: nothing to hold back.
    yield
    return
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except Exception:
      os.dup2(saved, 2)
      held.seek(0)
      with open(2, "wb", closefd=False) as stderr:
        shutil.copyfileobj(held, stderr)
      raise
    finally:
      os.dup2(saved, 2)
      os.close(saved)
