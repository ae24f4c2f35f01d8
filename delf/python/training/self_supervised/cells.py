"""Points of views, and the cells of the feature map that they lie in."""

import numpy as np

from delf.python.training.model import keypoints
from delf.python.training.self_supervised import warps

STRIDE = keypoints.STRIDE


def correspondences(points_1, homographies, size, side):
  """Returns points of two views of a photo that show the same.

  Args:
    points_1: [M, 2] float, (x, y) in the first view.
    homographies: Two [3, 3], from the photo to each view.
    size: (width, height) of the photo.
    side: Pixels of a view's side.

  Returns:
    Two [N, 2] float64, (x, y): those inside both views and the photo.
  """
  source = warps.project(np.linalg.inv(homographies[0]), points_1)
  points_2 = warps.project(homographies[1], source)
  good = inside(points_1, side) & inside(points_2, side)
  good &= ((source >= 0) & (source <= np.array(size) - 1)).all(1)
  return points_1[good], points_2[good]


def centres(side):
  """Returns the centres of the cells of a view, [C, 2] int, (x, y)."""
  return np.mgrid[0:side:STRIDE, 0:side:STRIDE].reshape(2, -1).T[:, ::-1]


def inside(points, side):
  """Returns which points [N, 2] lie in a view, bool [N]."""
  return ((points >= 0) & (points <= side - STRIDE / 2 - 0.01)).all(1)


def of(points, side):
  """Returns the index of the cell nearest to each point.

  Args:
    points: [..., 2] float, (x, y); cell (i, j) is centred on (8 j, 8 i).
    side: Pixels of a view's side.

  Returns:
    [...] int32.
  """
  last = side // STRIDE - 1
  cells = np.floor(points / STRIDE + 0.5)
  cells = np.clip(cells, 0, last).astype(np.int32)
  return cells[..., 1] * (last + 1) + cells[..., 0]
