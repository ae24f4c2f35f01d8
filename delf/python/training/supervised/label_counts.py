"""How many photos each class has, from the map of labels beside TFRecords."""

import json
import os

import numpy as np

from delf.python import files
from delf.python.training.supervised import data_source


def read(pattern):
  """Reads how many training photos each class has.

  Args:
    pattern: Pattern of the TFRecords.

  Returns:
    [classes] int64, or None where nothing says it.
  """
  folder = os.path.dirname(pattern.split(",")[0])
  try:
    found = json.loads(
      files.read_bytes(os.path.join(folder, data_source.LABELS))
    )
    return np.array([entry["train"] for entry in found["classes"]], np.int64)
  except (OSError, ValueError, KeyError, TypeError, OverflowError):
    return None
