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
  """Count the local features of two images that agree with an affine map.

  Each query feature's nearest index feature is a putative match; the map goes
  from the index image to the query image.

  Args:
    query_locations: [N1, 2] float, (y, x) pixels.
    query_descriptors: [N1, D] float.
    index_image_locations: [N2, 2] float, (y, x) pixels.
    index_image_descriptors: [N2, D] float.
    ransac_seed: None for a fixed seed: the same input has the same result.
    descriptor_matching_threshold: Largest (exclusive) distance of descriptors;
      with `use_ratio_test`, share of the distance to the second nearest.
    ransac_residual_threshold: Pixels of the query image.
    query_im_array: [H1, W1, 3] uint8, as that of the index image is. With both,
      a picture of inliers is made.
    query_im_scale_factors: (y, x) from locations to pixels of the array.

  Returns:
    (number of inliers, JPEG bytes of the picture). The number is 0 with at most
    three putative matches. Bytes are empty without images or without inliers.
  """
  is_drawn = query_im_array is not None and index_im_array is not None
  options = matcher.MatchOptions.one_way(
    descriptor_matching_threshold,
    ransac_residual_threshold,
    use_ratio_test,
    seed=ransac_seed or 0,
    min_inliers=None if is_drawn else 1,  # Measured for the picture alone.
  )
  query = matcher.prepare(query_locations, query_descriptors, "the query image")
  index = matcher.prepare(
    index_image_locations, index_image_descriptors, "the index image"
  )
  match = matcher.match_prepared(query, index, options, backward=True)
  if not match.score or not is_drawn:
    return match.score, b""
  from delf.pictures import figures

  return match.score, figures.matches_jpeg(
    query_im_array,
    index_im_array,
    _drawn(query, query_im_scale_factors),
    _drawn(index, index_im_scale_factors),
    match,
  )


def _drawn(prepared, factors):
  """Returns local features where a picture shows them."""
  factors = np.asarray([1, 1] if factors is None else factors, np.float64)
  if factors.shape != (2,):
    raise errors.InputError(
      "scale factors for y and x", f"shape {list(factors.shape)}"
    )
  number = len(prepared.points)
  return features.LocalFeatures(
    locations=prepared.points[:, ::-1] * factors,
    scales=np.ones([number], np.float32),
    descriptors=np.zeros([number, 0], np.float32),
    attention=np.zeros([number], np.float32),
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
  """Re-rank the images of one query by their inliers.

  The first 100 of the ranking that are not junk are verified; all others, junk
  too, have 0 inliers. The order is by (inliers, initial score), descending.
  `delf.matching.verification` does the same for many queries, on all cores.

  Args:
    input_ranks: N ids of all index images, best first.
    initial_scores: N scores of index images, by id.
    query_name: Without extension.
    index_names: N names of index images, by id.
    junk_ids: Ids of index images that are not verified.
    ransac_seed: For each pair; this and the rest are those of MatchFeatures.

  Returns:
    N ids of the index images, best first.
  """
  ranks = np.asarray(input_ranks, np.int64)
  scores = np.asarray(initial_scores, np.float64)
  number = len(index_names)
  for name, array in (("input_ranks", ranks), ("initial_scores", scores)):
    if array.shape != (number,):
      raise errors.InputError(
        f"{name} and index_names of one length", f"{array.size} and {number}"
      )
  if not np.array_equal(np.sort(ranks), np.arange(number)):
    raise errors.InputError("each index image once in input_ranks", "others")
  options = matcher.MatchOptions.one_way(
    descriptor_matching_threshold,
    ransac_residual_threshold,
    use_ratio_test,
    seed=ransac_seed or 0,
    min_inliers=1,
  )

  def load(folder, name):
    path = os.path.join(folder, f"{name}{local_feature_extension}")
    local = feature_io.read_local_features(path)
    return matcher.prepare(local.locations, local.descriptors, path)

  def verify(_, images):
    query = load(query_features_dir, query_name)
    others = (load(index_features_dir, index_names[i]) for i in images.tolist())
    return [
      matcher.match_prepared(query, other, options, backward=True).score
      for other in others
    ]

  junk = np.fromiter(junk_ids, np.int64)
  order = ranking.rerank(ranks[None], scores[ranks][None], verify, [junk])
  return order.ids[0].tolist()
