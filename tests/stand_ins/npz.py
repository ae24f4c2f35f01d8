"""Recorded arrays."""

import numpy as np


def read(path):
  """Returns the arrays of an `.npz` file by name; the file is closed."""
  with np.load(path, allow_pickle=False) as found:
    return dict(found)
