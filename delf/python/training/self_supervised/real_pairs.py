"""True correspondences between photos of one place, where SIFT is sure."""

import collections
import dataclasses
import hashlib
import itertools

import cv2
import numpy as np
from absl import logging

from delf.python import files, progress
from delf.python.training.self_supervised import array_file

# A pair with fewer inliers is left out.
MIN_INLIERS = 25


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two photos and points that correspond.

  Attributes:
    first: Index of a photo.
    second: Index of the other.
    points: [N, 4] float32, (x, y) in the first and (x, y) in the second.
  """

  first: int
  second: int
  points: np.ndarray


def root_sift(image, number=2000, contrast=0.02):
  """Finds RootSIFT features (Arandjelovic and Zisserman, CVPR 2012).

  Args:
    image: uint8 [H, W, 3], RGB.
    number: At most so many.
    contrast: Contrast threshold of the detector.

  Returns:
    Sequence of N cv2.KeyPoint, and descriptors [N, 128] float32.
  """
  grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
  sift = cv2.SIFT_create(number, contrastThreshold=contrast)
  keypoints, descriptors = sift.detectAndCompute(grey, None)
  if not keypoints:
    return (), np.zeros([0, 128], np.float32)
  descriptors = descriptors / (descriptors.sum(1, keepdims=True) + 1e-7)
  return keypoints, np.sqrt(descriptors)


def matches(first, second, ratio=0.85):
  """Returns mutual nearest neighbours that pass the ratio test.

  Args:
    first: Points and descriptors.
    second: Points and descriptors.
    ratio: Of the distances to the nearest and second nearest.

  Returns:
    [N, 4] float32, (x, y) in the first and in the second.
  """
  if min(len(first[0]), len(second[0])) < 2:
    return np.zeros([0, 4], np.float32)
  distances = 2.0 - 2.0 * first[1] @ second[1].T
  nearest = distances.argmin(1)
  rows = np.arange(len(nearest))
  two = np.partition(distances, 1, axis=1)[:, :2]
  good = two[:, 0] < ratio**2 * two[:, 1]
  good &= distances.argmin(0)[nearest] == rows
  rows = rows[good]
  return np.hstack([first[0][rows], second[0][nearest[rows]]])


def verified(points, threshold=1.0, seed=0):
  """Returns the points that agree with one fundamental matrix.

  Args:
    points: [N, 4] float32.
    threshold: Of the distance to the epipolar line, in pixels.
    seed: Of the estimator.

  Returns:
    [M, 4] float32; empty where fewer than MIN_INLIERS agree.
  """
  if len(points) < MIN_INLIERS:
    return points[:0]
  cv2.setRNGSeed(seed)
  try:
    _, mask = cv2.findFundamentalMat(
      points[:, :2], points[:, 2:], cv2.USAC_MAGSAC, threshold, 0.999, 2000
    )
  except cv2.error:
    mask = None  # It asserts, now and then, that a model that it drew is one.
  if mask is None or mask.sum() < MIN_INLIERS:
    return points[:0]
  return points[mask.ravel().astype(bool)]


def find(photos):
  """Finds the pairs of photos of one group that match.

  Args:
    photos: list of Photo.

  Returns:
    list of Pair.
  """
  groups = collections.defaultdict(list)
  for i, photo in enumerate(photos):
    groups[photo.group].append(i)
  groups = [group for group in groups.values() if len(group) > 1]
  pairs = []
  for group in progress.track(groups, "matching photos of one place"):
    features = {i: _points_and_descriptors(photos[i].image) for i in group}
    for i, j in itertools.combinations(group, 2):
      points = verified(matches(features[i], features[j]))
      if len(points):
        pairs.append(Pair(i, j, points))
  return pairs


def _points_and_descriptors(image):
  keypoints, descriptors = root_sift(image)
  points = np.float32([keypoint.pt for keypoint in keypoints]).reshape(-1, 2)
  return points, descriptors


def cached(path, photos):
  """Finds the pairs of photos, once.

  Args:
    path: pathlib.Path of an `.npz` file; read if these photos were its, else
      written.
    photos: list of Photo.

  Returns:
    list of Pair.
  """
  if path.exists():
    pairs = load(path, photos)
    if pairs is not None:
      return pairs
    logging.info("%s is of other photos: finding the pairs anew", path)
  save(path, find(photos), photos)
  return load(path, photos)


def save(path, pairs, photos):
  """Writes pairs of photos to an `.npz` file."""
  with files.atomic_path(path) as temporary:
    np.savez_compressed(
      temporary,
      digest=_digest(photos),
      photos=np.array([(p.first, p.second) for p in pairs]).reshape(-1, 2),
      numbers=np.array([len(p.points) for p in pairs], int),
      points=np.concatenate(
        [np.zeros([0, 4], np.float32)] + [p.points for p in pairs]
      ),
    )


def load(path, photos):
  """Returns the list of Pair that `save` wrote; None if of other photos."""
  names = ["digest", "photos", "numbers", "points"]
  arrays = array_file.read(path, "pairs of photos", names)
  if arrays["digest"] != _digest(photos):
    return None
  points = np.split(arrays["points"], np.cumsum(arrays["numbers"])[:-1])
  return [
    Pair(int(first), int(second), some)
    for (first, second), some in zip(arrays["photos"], points, strict=False)
  ]


def _digest(photos):
  """Returns words that other photos, groups or sizes do not have."""
  rows = [(p.name, p.group, p.image.shape) for p in photos]
  return hashlib.sha256(repr(rows).encode()).hexdigest()
