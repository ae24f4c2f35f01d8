"""Geometric verification of image pairs, under the original's name."""

import numpy as np

from delf.python import errors, features, files
from delf.python.retrieval import matching, verification

_DELF_EXTENSION = files.DELF


def MatchFeatures(  # noqa: PLR0913 (the contract's signature)
  query_locations,
  query_descriptors,
  index_image_locations,
  index_image_descriptors,
  ransac_seed=None,
  descriptor_matching_threshold=0.9,
  ransac_residual_threshold=10.0,
  query_im_array=None,
  index_im_array=None,
  query_im_scale_factors=None,
  index_im_scale_factors=None,
  use_ratio_test=False,
):
  """Counts the local features of two images that agree with an affine map.

  Each query feature's nearest index feature is a putative match; the map goes
  from the index image to the query image.

  Args:
    query_locations: [N1, 2] float, (y, x) in pixels of the query image.
    query_descriptors: [N1, D] float.
    index_image_locations: [N2, 2] float, (y, x) in pixels of the index image.
    index_image_descriptors: [N2, D] float.
    ransac_seed: int, or None for a fixed seed: the same input always has the
      same result.
    descriptor_matching_threshold: Largest (exclusive) Euclidean distance of
      descriptors; with `use_ratio_test`, largest (exclusive) share of the
      distance to the second nearest.
    ransac_residual_threshold: Largest residual of an inlier, in pixels of the
      query image.
    query_im_array: [H1, W1, 3] uint8, or None.
    index_im_array: [H2, W2, 3] uint8, or None. Where both are given, a picture
      of the inliers is made.
    query_im_scale_factors: (y, x) factors from query locations to pixels of
      `query_im_array`, or None for 1.
    index_im_scale_factors: (y, x) factors from index locations to pixels of
      `index_im_array`, or None for 1.
    use_ratio_test: Whether to compare with the second nearest descriptor.

  Returns:
    (number of inliers, JPEG bytes of the picture). The number is 0 with at most
    three putative matches. Bytes are empty without images or without inliers.

  Raises:
    InputError: If dimensions differ or values are not finite. It is a
      ValueError.
  """
  threshold = descriptor_matching_threshold
  putatives = neighbours.nearest(
    query_descriptors,
    index_image_descriptors,
    max_distance=None if use_ratio_test else threshold,
    ratio=threshold if use_ratio_test else None,
  )
  query = matching.points(query_locations, query_descriptors, "the query image")
  index = matching.points(
    index_image_locations, index_image_descriptors, "the index image"
  )
  if len(putatives) <= _TOO_FEW:
    return 0, b""
  pairs = putatives.pairs[:, ::-1]  # Index image first, as the map goes.
  one, two = index[pairs[:, 0]], query[pairs[:, 1]]
  found = robust.estimate(
    one,
    two,
    models.AFFINE,
    ransac_residual_threshold,
    seed=ransac_seed or 0,
    use=putatives.one_to_one(),
  )
  number = int(np.count_nonzero(found.inliers))
  if number == 0 or query_im_array is None or index_im_array is None:
    return number, b""
  match = matching.from_estimate(
    putatives,
    found,
    one,
    two,
    matching.MatchOptions(residual_threshold=ransac_residual_threshold),
  )
  return found.inliers, _picture(
    (query_im_array, index_im_array),
    (
      query.points[:, ::-1] * _factors(query_im_scale_factors),
      index.points[:, ::-1] * _factors(index_im_scale_factors),
    ),
    match,
  )


def _picture(images, locations, match):
  """Returns JPEG bytes of a match."""
  from delf.python import viz

  both = [_as_features(each) for each in locations]
  return viz.matches_jpeg(*images, *both, match)


def _as_features(locations):
  number = len(locations)
  return features.LocalFeatures(
    locations=locations,
    scales=np.ones([number], np.float32),
    descriptors=np.zeros([number, 0], np.float32),
    attention=np.zeros([number], np.float32),
  )


def _factors(factors):
  if factors is None:
    return np.ones([2])
  factors = np.asarray(factors, dtype=np.float64)
  if factors.shape != (2,):
    raise errors.InputError(
      "scale factors for y and x", f"shape {list(factors.shape)}"
    )
  return factors
