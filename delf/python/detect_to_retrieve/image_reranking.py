"""Geometric verification of image pairs, under the original's name."""

import os

import numpy as np

from delf.base import errors, files
from delf.formats import features
from delf.indexes import ranking
from delf.matching import matcher
from delf.python import feature_io

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
  options = matcher.VerifyOptions(
    descriptor_matching_threshold,
    ransac_residual_threshold,
    use_ratio_test,
    0 if ransac_seed is None else ransac_seed,
  )
  query = matcher.prepare(query_locations, query_descriptors, "the query image")
  index = matcher.prepare(
    index_image_locations, index_image_descriptors, "the index image"
  )
  found = matcher.verify(query, index, options)
  if not found.inliers or query_im_array is None or index_im_array is None:
    return found.inliers, b""
  match = matcher.from_estimate(
    found.putatives,
    found.estimate,
    *matcher.pair_points(query, index, found.putatives),
    matcher.MatchOptions(residual_threshold=ransac_residual_threshold),
  )
  return found.inliers, _picture(
    (query_im_array, index_im_array),
    (
      query.points[:, ::-1] * _factors(query_im_scale_factors),
      index.points[:, ::-1] * _factors(index_im_scale_factors),
    ),
    match,
  )


def RerankByGeometricVerification(  # noqa: PLR0913 (the contract's signature)
  input_ranks,
  initial_scores,
  query_name,
  index_names,
  query_features_dir,
  index_features_dir,
  junk_ids,
  local_feature_extension=_DELF_EXTENSION,
  ransac_seed=None,
  descriptor_matching_threshold=0.9,
  ransac_residual_threshold=10.0,
  use_ratio_test=False,
):
  """Re-ranks the images of one query by their inliers.

  The first 100 of the ranking that are not junk are verified; all others, junk
  too, have 0 inliers. The order is by (inliers, initial score), descending.
  `pipelines.verify` does the same for many queries, on all cores.

  Args:
    input_ranks: Sequence of N int, ids of all index images, best first.
    initial_scores: Sequence of N float, score of each index image by its id.
    query_name: Name of the query image, without extension.
    index_names: Sequence of N str, names of the index images by id.
    query_features_dir: Folder of the query's local features.
    index_features_dir: Folder of the index images' local features.
    junk_ids: Ids of index images that are not verified.
    local_feature_extension: Extension of the feature files.
    ransac_seed: As in `MatchFeatures`, for each pair.
    descriptor_matching_threshold: As in `MatchFeatures`.
    ransac_residual_threshold: As in `MatchFeatures`.
    use_ratio_test: As in `MatchFeatures`.

  Returns:
    list of N int, ids of the index images, best first.

  Raises:
    InputError: If numbers of elements differ, or a feature file cannot be used.
      It is a ValueError.
    FileNotFoundError: If a feature file is not there.
  """
  ranks = np.asarray(input_ranks, np.int64)
  scores = np.asarray(initial_scores, np.float64)
  _check_ranking(ranks, scores, len(index_names))
  options = matcher.VerifyOptions(
    descriptor_matching_threshold,
    ransac_residual_threshold,
    use_ratio_test,
    0 if ransac_seed is None else ransac_seed,
  )

  def load(folder, name):
    path = os.path.join(folder, f"{name}{local_feature_extension}")
    found = feature_io.read_local_features(path)
    return matcher.prepare(found.locations, found.descriptors, path)

  def verify(_, images):
    query = load(query_features_dir, query_name)
    return [
      matcher.verify(
        query, load(index_features_dir, index_names[image]), options
      ).inliers
      for image in images.tolist()
    ]

  junk = np.fromiter(junk_ids, np.int64)
  found = ranking.rerank(ranks[None], scores[ranks][None], verify, [junk])
  return found.ids[0].tolist()


def _check_ranking(ranks, scores, number):
  """Raises an InputError unless each of some images is ranked and scored."""
  for name, array in (("input_ranks", ranks), ("initial_scores", scores)):
    if array.shape != (number,):
      raise errors.InputError(
        f"{name} and index_names of one length", f"{array.size} and {number}"
      )
  if not np.array_equal(np.sort(ranks), np.arange(number)):
    raise errors.InputError("each index image once in input_ranks", "others")


def _picture(images, locations, match):
  """Returns JPEG bytes of a match."""
  from delf.pictures import figures

  both = [_as_features(each) for each in locations]
  return figures.matches_jpeg(*images, *both, match)


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
