"""Choice of the lines of a picture of matches, spread over the photo."""

import numpy as np

# Lines of one picture. More hide the photos and each other.
MAX_LINES = 100

_GRID = 8  # Cells along each side that lines are spread over.


def choose(points, strengths, width, most=MAX_LINES):
  """Returns which inliers to draw: the strongest of each region first.

  Args:
    points: [M, 2] float, (x, y) in image 1, x in [0, width], y in [0, 1].
    strengths: [M] float, larger for a better inlier.
    width: Width of the photo by its height.
    most: Largest number of lines.

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
