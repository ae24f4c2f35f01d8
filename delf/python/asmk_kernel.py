"""How much two descriptors of one visual word count: ASMK and ASMK*.

G. Tolias, Y. Avrithis, H. Jegou, "Image search with selective match kernels:
aggregation across single and multiple images", IJCV 2016, equations 4 and 9.
"""

import numpy as np


def selectivity(values, alpha, tau):
  """Returns sigma(u) = sign(u) |u|^alpha where u > tau, else 0.

  Args:
    values: Array of u, similarities of two descriptors, in [-1, 1].
    alpha: Exponent, 0 or over.
    tau: Threshold.

  Returns:
    float64 array of the same shape.
  """
  values = np.asarray(values, dtype=np.float64)
  powers = np.sign(values) * np.abs(values) ** alpha
  return np.where(values > tau, powers, 0.0)


def compared_bits(dimension):
  """Returns the bits that ASMK* compares, of which u = 1 - 2 h / bits.

  Those that fill the last byte count, too, as in the original; but for a
  dimension that is under one byte.
  """
  return dimension if dimension < 8 else -(-dimension // 8) * 8
