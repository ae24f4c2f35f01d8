"""The state of a clustering, in a file."""

import io
import zipfile

import numpy as np

from delf.python import errors, files
from delf.python.retrieval import clustering


def write(path, state):
  """Writes a clustering.State, whole or not at all."""
  arrays = {
    "centers": state.centers,
    "objectives": np.array(state.objectives, dtype=np.float64),
    "moved": np.array(state.moved, dtype=np.int64),
    "converged": np.array(state.converged),
  }
  if state.labels is not None:
    arrays["labels"] = state.labels
  with files.atomic_path(path) as temporary:
    np.savez(temporary, **arrays)


def read(path):
  """Reads a clustering.State.

  Args:
    path: pathlib.Path of the file.

  Returns:
    clustering.State, or None if there is no file.

  Raises:
    InputError: If it is damaged.
  """
  if not path.exists():
    return None
  try:
    with np.load(io.BytesIO(files.read_bytes(path))) as found:
      found = dict(found)
    return clustering.State(
      centers=found["centers"],
      labels=found.get("labels"),
      objectives=tuple(found["objectives"].tolist()),
      moved=tuple(found["moved"].tolist()),
      converged=bool(found["converged"]),
    )
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
    raise errors.InputError(
      "the state of a clustering (without the file it begins anew)",
      "a damaged one",
      path,
    ) from None
