"""Matching of two images by their local features.

Descriptors of two images that are nearest are putative matches; those that
agree with one map between the images are inliers, whose number is the score.
"""

import contextlib
import dataclasses
import numbers
import os
import time
import typing

import numpy as np

from delf.base import arrays, errors
from delf.extraction import extract
from delf.formats import features
from delf.matching import geometry
from delf.python import utils

# Fewest inliers of a match, however small the chance of fewer.
MIN_INLIERS = 10

# Pixels. An affine map is the first order of what a camera does, so it gets the
# 20 of the original; the exact ones need no such allowance.
DEFAULT_THRESHOLDS = {
  geometry.AFFINE: 20.0,
  geometry.HOMOGRAPHY: 10.0,
  geometry.FUNDAMENTAL: 3.0,
}

# Distances held at once: 16 MB of float32.
_BLOCK = 4_000_000

# Grey of a side whose image is not given, and its least and largest size.
_SHADE = 232
_LEAST_GROUND, _LARGEST_GROUND = (240, 320), 8192

_Image = str | os.PathLike | np.ndarray


@dataclasses.dataclass(frozen=True)
class MatchOptions:
  """How features are matched. The defaults suit any unit-length descriptor.

  Limits are exclusive. InputError is raised for values out of their range.
  """

  # Largest Euclidean distance of descriptors.
  max_distance: float | None = None
  # Largest share of the distance to the second nearest (Lowe, IJCV 2004).
  ratio: float | None = None
  # Whether each must be the other's nearest neighbour.
  mutual: bool = True
  estimator: str = geometry.AFFINE
  # Pixels of the image that the map leads to (Sampson distance for
  # "fundamental"); None for DEFAULT_THRESHOLDS.
  residual_threshold: float | None = None
  # The same for each pair: its result does not depend on those before it.
  seed: int = 0
  # None for more than chance explains, and at least MIN_INLIERS.
  min_inliers: int | None = None

  def __post_init__(self):
    for name in ("max_distance", "ratio"):
      value = getattr(self, name)
      if value is not None and not _is_over_0(value):
        raise errors.InputError(f"{name} over 0", repr(value))
    if self.estimator not in geometry.ESTIMATORS:
      raise errors.InputError(
        f"an estimator of {', '.join(geometry.ESTIMATORS)}",
        repr(self.estimator),
      )
    value = self.residual_threshold
    if value is not None and not (_is_over_0(value) and value < np.inf):
      raise errors.InputError("a residual_threshold over 0 pixels", repr(value))
    if not isinstance(self.seed, numbers.Integral):
      raise errors.InputError("a whole number as seed", repr(self.seed))
    value = self.min_inliers
    is_whole = isinstance(value, numbers.Integral)
    if value is not None and not (is_whole and value > 0):
      raise errors.InputError(
        "a whole number over 0 as min_inliers", repr(value)
      )

  @classmethod
  def one_way(
    cls,
    threshold: float,
    residual_threshold: float,
    use_ratio_test: bool = False,
    **others,
  ) -> "MatchOptions":
    """Return the matching of the papers: one-way neighbours, an affine map.

    The threshold is `max_distance`, or with the test `ratio`.
    """
    return cls(
      max_distance=None if use_ratio_test else threshold,
      ratio=threshold if use_ratio_test else None,
      mutual=False,
      residual_threshold=residual_threshold,
      **others,
    )

  @property
  def pixels(self) -> float:
    """Largest residual of an inlier."""
    if self.residual_threshold is None:
      return DEFAULT_THRESHOLDS[self.estimator]
    return float(self.residual_threshold)

  def describe(self) -> list[str]:
    """Return what the inliers depend on, a label and value a line."""
    limits = (("distance", self.max_distance), ("ratio", self.ratio))
    return [
      *(f"{name} {float(limit)!r}" for name, limit in limits if limit),
      f"residual {self.pixels!r}",
      f"seed {self.seed}",
      *(["mutual"] if self.mutual else []),
      *([self.estimator] if self.estimator != geometry.AFFINE else []),
    ]


def _is_over_0(value):
  return isinstance(value, numbers.Real) and value > 0


# Of the original's script for two images, and of verification in that of
# Detect-to-Retrieve and in DELG's (section 5.1).
TWO_IMAGES = MatchOptions.one_way(0.8, 20.0)
DETECT_TO_RETRIEVE = MatchOptions.one_way(0.9, 10.0)
DELG = MatchOptions.one_way(1.0, 20.0)


@dataclasses.dataclass(frozen=True)
class Match:
  """What agrees between two images.

  Rows of `putative` and `inliers` are indices into features 1 and 2. The model
  leads from image 1 to image 2 in (x, y) pixels.
  """

  putative: np.ndarray  # [P, 2] int32, matches by descriptor.
  inliers: np.ndarray  # [M, 2] int32, those that agree with the model.
  model: np.ndarray | None  # [2, 3] (affine) or [3, 3] float64.
  residuals: np.ndarray  # [M] float32, pixels that each inlier is off.
  distances: np.ndarray  # [M] float32, Euclidean, of descriptors of inliers.
  residual_threshold: float  # Pixels.
  min_inliers: int  # Least score of images that match.

  @property
  def score(self) -> int:
    """Number of inliers."""
    return len(self.inliers)

  @property
  def is_match(self) -> bool:
    """Whether the images show the same thing: enough inliers."""
    return self.score >= self.min_inliers

  @property
  def strengths(self) -> np.ndarray:
    """[M] float32 in [0, 1]: 1 for an inlier on the spot, 0 at the limit."""
    return 1 - self.residuals / np.float32(self.residual_threshold)


def match(
  features_1: features.LocalFeatures,
  features_2: features.LocalFeatures,
  options: MatchOptions | None = None,
  **changes,
) -> Match:
  """Match the local features of two images.

  Changes are those of fields of the options. The score is 0, without a model,
  where features are too few to tell; InputError if values are not finite or
  dimensions differ.
  """
  return match_arrays(
    features_1.locations,
    features_1.descriptors,
    features_2.locations,
    features_2.descriptors,
    options,
    **changes,
  )


def match_arrays(
  locations_1: np.ndarray,
  descriptors_1: np.ndarray,
  locations_2: np.ndarray,
  descriptors_2: np.ndarray,
  options: MatchOptions | None = None,
  **changes,
) -> Match:
  """Match locations [N, 2], (y, x) pixels, with descriptors [N, D]."""
  return match_prepared(
    prepare(locations_1, descriptors_1, "image 1"),
    prepare(locations_2, descriptors_2, "image 2"),
    dataclasses.replace(options or MatchOptions(), **changes),
  )


@dataclasses.dataclass(frozen=True)
class PreparedDescriptors:
  """Descriptors with what each search among them needs, made once, float32."""

  array: np.ndarray  # [N, D], checked.
  centre: np.ndarray  # [D], their mean.
  # [N, D], `array` less `centre`: distances do not change when the origin does,
  # and rounding errors shrink.
  centred: np.ndarray
  squares: np.ndarray  # [N], squared lengths of `centred`.

  def __len__(self):
    return len(self.array)


@dataclasses.dataclass(frozen=True)
class PreparedFeatures:
  """The local features of one image, prepared for many pairs."""

  points: np.ndarray  # [N, 2] float64, (x, y) pixels.
  descriptors: PreparedDescriptors

  @property
  def nbytes(self) -> int:
    """Memory that they take."""
    held = [self.points, *vars(self.descriptors).values()]
    return sum(array.nbytes for array in held)


def prepare(
  locations: np.ndarray, descriptors: np.ndarray, label: str = "the image"
) -> PreparedFeatures:
  """Check and prepare (y, x) locations [N, 2] and descriptors [N, D]."""
  prepared = prepare_descriptors(descriptors, f"descriptors of {label}")
  locations = np.asarray(locations, dtype=np.float64)
  if locations.size == 0 and len(prepared) == 0:
    return PreparedFeatures(np.zeros([0, 2]), prepared)
  if locations.shape != (len(prepared), 2):
    raise errors.InputError(
      f"locations of shape [{len(prepared)}, 2] of {label}",
      f"shape {list(locations.shape)}",
    )
  arrays.check_finite(locations, f"locations of {label}")
  return PreparedFeatures(locations[:, ::-1], prepared)


def prepare_descriptors(
  descriptors: np.ndarray, label: str = "descriptors"
) -> PreparedDescriptors:
  """Check and prepare descriptors [N, D], called `label` in errors."""
  array = np.asarray(descriptors)
  # Empty files lose their dimension; there is nothing to compare anyway.
  empty = np.zeros([0, 0], np.float32)
  array = arrays.check_descriptors(array, None, label) if array.size else empty
  centre = array.mean(axis=0) if len(array) else array.sum(axis=0)
  centred = array - centre
  squares = np.einsum("ij,ij->i", centred, centred)
  return PreparedDescriptors(array, centre, centred, squares)


def match_prepared(
  one: PreparedFeatures,
  two: PreparedFeatures,
  options: MatchOptions,
  backward: bool = False,
) -> Match:
  """Match prepared features: each of one gets its nearest of two.

  With `backward` the map leads from image 2 to image 1, as in the papers'
  verification: from the index image to the query.
  """
  putatives = nearest(
    one.descriptors,
    two.descriptors,
    max_distance=options.max_distance,
    ratio=options.ratio,
    mutual=options.mutual,
  )
  points_1 = one.points[putatives.pairs[:, 0]]
  points_2 = two.points[putatives.pairs[:, 1]]
  if backward:
    points_1, points_2 = points_2, points_1
  estimate = geometry.estimate(
    points_1,
    points_2,
    options.estimator,
    options.pixels,
    seed=options.seed,
    use=putatives.one_to_one(),
  )
  return Match(
    putative=putatives.pairs,
    inliers=putatives.pairs[estimate.inliers],
    model=estimate.model,
    residuals=estimate.residuals[estimate.inliers],
    distances=putatives.distances[estimate.inliers],
    residual_threshold=options.pixels,
    min_inliers=options.min_inliers
    or geometry.needed_inliers(
      points_1,
      points_2,
      estimate.model,
      options.estimator,
      options.pixels,
      MIN_INLIERS,
    ),
  )


@dataclasses.dataclass(frozen=True)
class Putatives:
  """Matches by descriptor alone."""

  pairs: np.ndarray  # [P, 2] int32, indices, sorted by the first.
  distances: np.ndarray  # [P] float32, Euclidean.

  def one_to_one(self) -> np.ndarray:
    """Return [P] bool: which pairs are the nearest of both their features."""
    keep = np.ones([len(self.pairs)], dtype=bool)
    order = np.argsort(self.distances, kind="stable")
    for column in (0, 1):
      _, first = np.unique(self.pairs[order, column], return_index=True)
      mask = np.zeros_like(keep)
      mask[order[first]] = True
      keep &= mask
    return keep


def nearest(
  first: np.ndarray | PreparedDescriptors,
  second: np.ndarray | PreparedDescriptors,
  *,
  max_distance: float | None = None,
  ratio: float | None = None,
  mutual: bool = False,
) -> Putatives:
  """Find the nearest of the second [N2, D] for each of the first [N1, D].

  The limits are those of MatchOptions. Where the second are fewer than two
  `ratio` drops no pair. With `mutual` a feature is in at most one pair.
  """
  first, second = (
    each
    if isinstance(each, PreparedDescriptors)
    else prepare_descriptors(each, label)
    for each, label in ((first, "descriptors 1"), (second, "descriptors 2"))
  )
  if not len(first) or not len(second):
    return Putatives(np.zeros([0, 2], np.int32), np.zeros([0], np.float32))
  dimensions = first.array.shape[1], second.array.shape[1]
  if dimensions[0] != dimensions[1]:
    raise errors.InputError(
      f"descriptors of one dimension ({dimensions[0]} as in image 1)",
      f"{dimensions[1]} in image 2",
    )
  best, runner_up, keep = _search(
    first.array, second, mutual, ratio is not None and len(second) > 1
  )
  distances = _distances(first.array, second.array, best)
  if max_distance is not None:
    keep &= distances < max_distance
  if runner_up is not None:
    keep &= distances < ratio * _distances(first.array, second.array, runner_up)
  pairs = np.stack([np.arange(len(first)), best], axis=1)[keep]
  return Putatives(pairs.astype(np.int32), distances[keep])


def _search(first, second, mutual, with_second):
  """Returns [N1] nearest and second nearest of side 2, and whether to keep."""
  first = first - second.centre
  own = np.einsum("ij,ij->i", first, first)
  # |b|^2 - 2 a b is the squared distance but for |a|^2, which is one number per
  # row and does not change the order within it.
  first *= -2
  best = np.empty([len(first)], dtype=np.int64)
  runner_up = np.empty_like(best) if with_second else None
  least_1 = np.empty([len(first)], dtype=np.float32)
  least_2 = np.full([len(second)], np.inf, dtype=np.float32)
  step = max(1, _BLOCK // len(second))
  for start in range(0, len(first), step):
    block = slice(start, start + step)
    table = first[block] @ second.centred.T
    table += second.squares
    best[block] = table.argmin(axis=1)
    if mutual:
      table += own[block, None]
      least_1[block] = table.min(axis=1)
      np.minimum(least_2, table.min(axis=0), out=least_2)
    if with_second:
      np.put_along_axis(table, best[block, None], np.inf, axis=1)
      runner_up[block] = table.argmin(axis=1)
  if not mutual:
    return best, runner_up, np.ones([len(first)], dtype=bool)
  # Of equally near ones the first alone.
  places = np.flatnonzero(least_1 <= least_2[best])
  _, chosen = np.unique(best[places], return_index=True)
  keep = np.zeros([len(first)], dtype=bool)
  keep[places[chosen]] = True
  return best, runner_up, keep


def _distances(first, second, indices):
  difference = first - second[indices]
  return np.sqrt(np.einsum("ij,ij->i", difference, difference))


@dataclasses.dataclass(frozen=True)
class MatchResult:
  """Result of matching two images."""

  match: Match
  features: tuple[features.LocalFeatures, features.LocalFeatures]
  # Seconds of "read", "load model", "extract", "match", "draw", if done.
  timings: dict[str, float]
  picture: str | None = None
  device: str = ""  # That extracted.


def match_images(
  image_1: _Image,
  image_2: _Image,
  config: typing.Any = None,
  *,
  output: str | os.PathLike | None = None,
  options: MatchOptions | None = None,
  device: str | None = None,
  apply_rotation: bool = False,
  extractor: typing.Any = None,
) -> MatchResult:
  """Extract the local features of two images and match them.

  Args:
    image_1: Path, or [H, W, 3] uint8, as image 2.
    config: DelfConfig, or name of a known model, or None for the embedded one.
      Of a configuration local features alone are computed.
    output: Path of the picture, whose extension decides the format.
    extractor: Replaces one made from the configuration, so that many pairs
      share it.
  """
  _check_output(output)
  timings = {}
  with _timed(timings, "read"):
    images = [_load(each, apply_rotation) for each in (image_1, image_2)]
  if extractor is None:
    with _timed(timings, "load model"):
      extractor = _make_extractor(config, device)
  with _timed(timings, "extract"):
    both = [extractor.extract(image).local for image in images]
  if any(each is None for each in both):
    raise errors.InputError("an extractor of local features", "none of them")
  device = getattr(extractor, "device", None) or ""
  return _match(both, images, output, options, timings, device)


def match_feature_files(
  features_1: str | os.PathLike,
  features_2: str | os.PathLike,
  images: tuple[_Image, _Image] | None = None,
  *,
  output: str | os.PathLike | None = None,
  options: MatchOptions | None = None,
  apply_rotation: bool = False,
) -> MatchResult:
  """Match two files of local features; see `match_images`.

  Without their images the picture is drawn on plain grounds.
  """
  _check_output(output)
  timings = {}
  with _timed(timings, "read"):
    both = [extract.read_local(path) for path in (features_1, features_2)]
    if output is not None and images is not None:
      images = [_load(each, apply_rotation) for each in images]
  return _match(both, images, output, options, timings, "")


def _match(both, images, output, options, timings, device):
  with _timed(timings, "match"):
    found = match(*both, options)
  if output is not None:
    from delf.pictures import figures

    with _timed(timings, "draw"):
      images = images or [_plain_ground(each.locations) for each in both]
      figures.draw_matches(output, *images, *both, found)
    output = os.fspath(output)
  return MatchResult(found, tuple(both), timings, output, device)


@contextlib.contextmanager
def _timed(timings, step):
  start = time.perf_counter()
  yield
  timings[step] = time.perf_counter() - start


def _check_output(output):
  """Refuses a picture that cannot be written before any work is done."""
  if output is not None:
    from delf.pictures import figures

    figures.check_path(output)


def _load(image, apply_rotation):
  if isinstance(image, (str, os.PathLike)):
    return np.asarray(utils.RgbLoader(image, apply_rotation=apply_rotation))
  return np.asarray(image)


def _make_extractor(config, device):
  """Returns an extractor of local features alone."""
  from delf.inference import zoo
  from delf.protos import delf_config_pb2

  if config is None or isinstance(config, (str, os.PathLike)):
    config = zoo.choose(config)
  if not config.use_local_features:
    raise errors.InputError(
      "a model or configuration with local features, which matching needs",
      "use_local_features: false",
      config.model_path or None,
    )
  # TensorFlow is loaded here, once all else is in order.
  from delf.inference import extractor

  local_only = delf_config_pb2.DelfConfig()
  local_only.CopyFrom(config)
  local_only.use_global_features = False
  return extractor.make_extractor(local_only, device=device)


def _plain_ground(locations):
  """Returns a plain image that holds all locations."""
  size = _LEAST_GROUND
  if len(locations):
    size = np.maximum(locations.max(axis=0), 1).astype(int) + 2
  return np.full([*np.minimum(size, _LARGEST_GROUND), 3], _SHADE, np.uint8)
