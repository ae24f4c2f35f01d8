"""Which of many matches a picture shows as lines; without matplotlib."""

import numpy as np

MAX_LINES = 100  # More hide the photos and each other.

_GRID = 8  # Cells along each side of image 1.


def spread(
  points: np.ndarray, strengths: np.ndarray, width: float, most: int = MAX_LINES
) -> np.ndarray:
  """Return which inliers to draw: the strongest of each region first.

  Args:
    points: [M, 2] float, (x, y) in image 1, x in [0, width], y in [0, 1].
    strengths: [M] float, larger for a better inlier.
    width: Width of the image by its height.

  Returns:
    [min(M, most)] int indices, weakest first.
  """
  cells = np.floor(points * [_GRID / max(width, 1e-9), _GRID]).astype(int)
  order = np.lexsort((-strengths, *cells.T))
  places = np.arange(len(order))
  starts = np.diff(cells[order], axis=0, prepend=-1).any(axis=1)
  # The best of each cell come first, then the second best, and so on.
  turns = places - np.maximum.accumulate(np.where(starts, places, 0))
  chosen = order[np.lexsort((-strengths[order], turns))][:most]
  return chosen[np.argsort(strengths[chosen], kind="stable")]
