"""Orders of whole numbers."""

import numpy as np


def stable(keys):
  """Returns what puts numbers in order; equal ones stay as they are.

  Args:
    keys: [N] int, none under 0.

  Returns:
    [N] intp, places in `keys`, as np.argsort.
  """
  # NumPy sorts 16 bits by digits, ten times as fast as more bits.
  if not keys.size or keys.max() < 1 << 16:
    keys = keys.astype(np.uint16)
  return np.argsort(keys, kind="stable")
