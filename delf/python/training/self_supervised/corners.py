"""Corners in the cells of a view, which teach the keypoints."""

import dataclasses

import cv2
import numpy as np

from delf.python.training.model import keypoints
from delf.python.training.self_supervised import warps

# Smallest eigenvalue, of pixels in [0, 1], from which a corner counts.
_SHARP = 2e-5

# How far corners of two views may be from each other, in pixels.
_APART = 1.0
_FAR = 1e3


@dataclasses.dataclass(frozen=True)
class Corners:
  """The best corner of each cell of a square view.

  Attributes:
    offsets: float32 [C, 2], (y, x) from the centre of the cell, in pixels.
    points: float64 [C, 2], the same as (x, y) in the view.
    sharp: float32 [C], 1 where it is a corner, 0 where the cell is flat.
    distance: float32 [S, S], from each pixel to the nearest sharp corner that
      no neighbour within 3 pixels exceeds.
  """

  offsets: np.ndarray
  points: np.ndarray
  sharp: np.ndarray
  distance: np.ndarray


def find(image):
  """Finds the Corners of a view (Shi and Tomasi, CVPR 1994).

  Args:
    image: uint8 [S, S, 3], S a multiple of the stride.
  """
  stride = keypoints.STRIDE
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
  grey = cv2.GaussianBlur(grey, (0, 0), 1.0)
  strength = cv2.cornerMinEigenVal(grey, 3, ksize=3)
  best = strength >= cv2.dilate(strength, np.ones([7, 7], np.uint8))
  free = np.uint8(~(best & (strength > _SHARP)))
  distance = cv2.distanceTransform(free, cv2.DIST_L2, 3)
  half, number = stride // 2, len(strength) // stride
  # Cell (i, j) is centred on pixel (8 i, 8 j).
  padded = np.pad(strength, ((half, 0), (half, 0)), constant_values=-1)
  cells = padded[: number * stride, : number * stride]
  cells = cells.reshape(number, stride, number, stride).transpose(0, 2, 1, 3)
  cells = cells.reshape(number * number, -1)
  centres = np.mgrid[:number, :number].reshape(2, -1).T * stride
  offsets = keypoints.POSITIONS[cells.argmax(1)]
  offsets = offsets + _between_pixels(padded, centres + half + offsets)
  points = np.float64(centres + offsets)[:, ::-1]
  sharp = (cells.max(1) > _SHARP).astype(np.float32)
  return Corners(offsets.astype(np.float32), points, sharp, distance)


def _between_pixels(values, places):
  """Returns where a parabola through three pixels has its top.

  Args:
    values: [H, W] float.
    places: [C, 2] float, whole (y, x) of the pixels.

  Returns:
    float [C, 2], (y, x) from each place, within half a pixel.
  """
  y, x = places.astype(int).T
  values = np.pad(values, 1, mode="edge")
  tops = []
  for dy, dx in ((1, 0), (0, 1)):
    before = values[y + 1 - dy, x + 1 - dx]
    here, after = values[y + 1, x + 1], values[y + 1 + dy, x + 1 + dx]
    bend = np.maximum(2 * here - before - after, 1e-9)
    tops.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
  return np.stack(tops, -1)


def agreement(first, second, homography):
  """Says how sure corners are, by another view of the same.

  Args:
    first: Corners.
    second: Corners of the other view.
    homography: [3, 3], from the first view to the second.

  Returns:
    float32 [C], in [0, 1]; 0 where the other view does not show it.
  """
  side = len(second.distance)
  there = warps.project(homography, first.points)
  pixels = np.rint(np.nan_to_num(there, nan=-1, posinf=-1, neginf=-1))
  inside = ((pixels >= 0) & (pixels < side)).all(1)
  pixels = np.clip(pixels, 0, side - 1).astype(int)
  distance = second.distance[pixels[:, 1], pixels[:, 0]]
  # Of a view without corners, distances are the largest numbers that there are.
  distance = np.minimum(distance, _FAR)
  close = np.exp(-0.5 * np.square(distance / _APART))
  return (inside * first.sharp * close).astype(np.float32)
