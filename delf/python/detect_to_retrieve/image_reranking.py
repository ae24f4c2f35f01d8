"""Geometric verification of image pairs, under the original's name."""

import os
from collections.abc import Iterable, Sequence

import numpy as np

from delf.base import errors, files
from delf.formats import features
from delf.indexes import ranking
from delf.matching import matcher
from delf.python import feature_io


def MatchFeatures(  # noqa: PLR0913 (the contract's signature)
  query_locations: np.ndarray,
  query_descriptors: np.ndarray,
  index_image_locations: np.ndarray,
  index_image_descriptors: np.ndarray,
  ransac_seed: int | None = None,
  descriptor_matching_threshold: float = 0.9,
  ransac_residual_threshold: float = 10.0,
  query_im_array: np.ndarray | None = None,
  index_im_array: np.ndarray | None = None,
  query_im_scale_factors: Sequence[float] | None = None,
  index_im_scale_factors: Sequence[float] | None = None,
  use_ratio_test: bool = False,
) -> tuple[int, bytes]:
  """Count the inliers of an affine map from the index image to the query image.

  Putative matches are each query feature and its nearest index feature.

  Args:
    query_locations: [N, 2] float, (y, x) in pixels, like those of the index
      image; descriptors are [N, D] float.
    ransac_seed: None for a fixed seed, so that results are reproducible.
    descriptor_matching_threshold: Exclusive limit of the distance of
      descriptors; with `use_ratio_test`, of its ratio to the second nearest.
    ransac_residual_threshold: Largest residual, in pixels of the query image.
    query_im_array: [H, W, 3] uint8, like that of the index image; with both,
      inliers are drawn.
    query_im_scale_factors: (y, x), from locations to pixels of the array.

  Returns:
    (number of inliers, JPEG data of the picture). The number is 0 for three or
    fewer putative matches. Data are empty without arrays or inliers.
  """
  is_drawn = query_im_array is not None and index_im_array is not None
  options = matcher.MatchOptions.one_way(
    descriptor_matching_threshold,
    ransac_residual_threshold,
    use_ratio_test,
    seed=ransac_seed or 0,
    min_inliers=None if is_drawn else 1,  # Determined only for the picture.
  )
  query = matcher.prepare(query_locations, query_descriptors, "the query image")
  index = matcher.prepare(
    index_image_locations, index_image_descriptors, "the index image"
  )
  match = matcher.match_prepared(query, index, options, backward=True)
  if not match.score or query_im_array is None or index_im_array is None:
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
  """Return local features at their locations in a picture."""
  factors = np.asarray([1, 1] if factors is None else factors, np.float64)
  if factors.shape != (2,):
    raise errors.InputError(
      f"scale factors are (y, x), not {list(factors.shape)}"
    )
  number = len(prepared.points)
  return features.LocalFeatures(
    locations=prepared.points[:, ::-1] * factors,
    scales=np.ones([number], np.float32),
    descriptors=np.zeros([number, 0], np.float32),
    attention=np.zeros([number], np.float32),
  )


def RerankByGeometricVerification(  # noqa: PLR0913 (the contract's signature)
  input_ranks: Sequence[int],
  initial_scores: Sequence[float],
  query_name: str,
  index_names: Sequence[str],
  query_features_dir: files.Path,
  index_features_dir: files.Path,
  junk_ids: Iterable[int],
  local_feature_extension: str = files.DELF,
  ransac_seed: int | None = None,
  descriptor_matching_threshold: float = 0.9,
  ransac_residual_threshold: float = 10.0,
  use_ratio_test: bool = False,
) -> list[int]:
  """Re-rank the images of one query by inliers.

  The first 100 images that are not junk are verified; all others have 0
  inliers. The order is by (inliers, initial score), descending.
  `delf.matching.verification` does this for many queries, on all cores.

  Args:
    input_ranks: Ids of all N index images, best first, as the result is.
    initial_scores: N scores of index images, by id; so are `index_names`.
    query_name: Name without extension.
    junk_ids: Ids of index images that are not verified.
    ransac_seed: Seed of each pair; for this and the rest see `MatchFeatures`.
  """
  ranks = np.asarray(input_ranks, np.int64)
  scores = np.asarray(initial_scores, np.float64)
  number = len(index_names)
  for name, array in (("input_ranks", ranks), ("initial_scores", scores)):
    if array.shape != (number,):
      values = f"{array.size} values for {number}"
      raise errors.InputError(f"{name} has {values} index_names")
  if not np.array_equal(np.sort(ranks), np.arange(number)):
    raise errors.InputError("input_ranks must have each index image once")
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
