"""Matching of two images by their local features.

Nearest descriptors of two images are putative matches; those that agree with
one map between the images are inliers, and their number is the score.
"""

import dataclasses
import numbers
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from delf.base import arrays, errors
from delf.formats import features
from delf.inference import photo
from delf.matching import geometry

# Fewest inliers of a match, however small the chance of fewer.
MIN_INLIERS = 10

# Pixels. An affine map is a first-order model of a camera, so it gets the 20 of
# the original; the exact models need less.
DEFAULT_THRESHOLDS = {
  geometry.AFFINE: 20.0,
  geometry.HOMOGRAPHY: 10.0,
  geometry.FUNDAMENTAL: 3.0,
}

# Distances held at once: 16 MB of float32.
_BLOCK = 4_000_000

# Grey of a side without an image, and its smallest and largest size.
_SHADE = 232
_LEAST_GROUND, _LARGEST_GROUND = (240, 320), 8192


@dataclasses.dataclass(frozen=True)
class MatchOptions:
  """Options of matching; the defaults suit any unit-length descriptor.

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
  # The same for each pair, so that a result does not depend on earlier pairs.
  seed: int = 0
  # None for more than by chance, and at least MIN_INLIERS.
  min_inliers: int | None = None

  def __post_init__(self) -> None:
    for name in ("max_distance", "ratio"):
      value = getattr(self, name)
      if value is not None and not _is_over_0(value):
        raise errors.InputError(f"{name} must be over 0, not {value!r}")
    if self.estimator not in geometry.ESTIMATORS:
      raise errors.InputError(
        f"estimator must be one of {', '.join(geometry.ESTIMATORS)}, not"
        f" {self.estimator!r}"
      )
    value = self.residual_threshold
    if value is not None and not (_is_over_0(value) and value < np.inf):
      raise errors.InputError(
        f"residual_threshold must be over 0 pixels, not {value!r}"
      )
    if not isinstance(self.seed, numbers.Integral):
      raise errors.InputError(f"seed must be a whole number, not {self.seed!r}")
    value = self.min_inliers
    is_whole = isinstance(value, numbers.Integral)
    if value is not None and not (is_whole and value > 0):
      raise errors.InputError(
        f"min_inliers must be a whole number over 0, not {value!r}"
      )

  @classmethod
  def one_way(
    cls,
    threshold: float,
    residual_threshold: float,
    use_ratio_test: bool = False,
    **others: Any,
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
    """Return the options that inliers depend on, a label and value each."""
    limits = (("distance", self.max_distance), ("ratio", self.ratio))
    return [
      *(f"{name} {float(limit)!r}" for name, limit in limits if limit),
      f"residual {self.pixels!r}",
      f"seed {self.seed}",
      *(["mutual"] if self.mutual else []),
      *([self.estimator] if self.estimator != geometry.AFFINE else []),
    ]


def _is_over_0(value):
  return isinstance(value, int | float | np.number) and value > 0


# Options of the original's script for two images, and of verification in
# Detect-to-Retrieve and DELG (section 5.1).
TWO_IMAGES = MatchOptions.one_way(0.8, 20.0)
DETECT_TO_RETRIEVE = MatchOptions.one_way(0.9, 10.0)
DELG = MatchOptions.one_way(1.0, 20.0)


_Sides = tuple[features.ImageFeatures, features.ImageFeatures]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Match(arrays.Record):
  """Result of matching two images.

  Rows of `putative` and `inliers` are indices into the local features of image
  1 and image 2. The model maps (x, y) pixels of image 1 to image 2.

  Example:
    >>> import delf
    >>> photos = delf.sample_photos("sample_photos")
    >>> match = delf.match(photos[0], photos[1])
    >>> match.is_match
    True
    >>> match.locations.shape == (match.score, 2, 2)
    True
  """

  putative: np.ndarray  # [P, 2] int32, matches by descriptor.
  inliers: np.ndarray  # [M, 2] int32, those that agree with the model.
  model: np.ndarray | None  # [2, 3] (affine) or [3, 3] float64.
  residuals: np.ndarray  # [M] float32, distance of each inlier in pixels.
  distances: np.ndarray  # [M] float32, Euclidean, of descriptors of inliers.
  residual_threshold: float  # Pixels.
  min_inliers: int  # Least score of images that match.
  estimator: str = geometry.AFFINE  # Kind of the model.
  # Of both images, where they are known; a picture needs them.
  features: _Sides | None = dataclasses.field(default=None, compare=False)
  # Time of "read", "load model", "extract", "match" and "draw", where done.
  seconds: dict[str, float] = dataclasses.field(
    default_factory=dict, compare=False
  )
  picture: str | None = dataclasses.field(default=None, compare=False)
  device: str = dataclasses.field(default="", compare=False)

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
    """[M] float32 in [0, 1]: 1 for a residual of 0, 0 at the threshold."""
    return 1 - self.residuals / np.float32(self.residual_threshold)

  @property
  def locations(self) -> np.ndarray:
    """[M, 2, 2] float, (y, x) pixels of each inlier in image 1 and image 2."""
    both = [
      local.locations[rows]
      for local, rows in zip(self._local, self.inliers.T, strict=True)
    ]
    return np.stack(both, axis=1)

  @property
  def paths(self) -> tuple[str | None, str | None]:
    """Path of each image, None where it is not known."""
    if self.features is None:
      return None, None
    return self.features[0].path, self.features[1].path

  def draw(
    self,
    path: str | os.PathLike,
    images: Sequence[np.ndarray | None] = (None, None),
  ) -> str:
    """Draw both photos with lines between inliers, and return the path.

    The extension decides the format. Pixels [H, W, 3] may be given; photos are
    read again where they are None, and plain where they are not known.
    """
    from delf.pictures import figures

    photos, both = self._images(images), self._local
    figures.draw_matches(path, *photos, *both, self)
    return os.fspath(path)

  def to_dict(self) -> dict[str, Any]:
    """Return the match as `delf match --json` prints it."""
    return {
      "images": list(self.paths),
      "score": self.score,
      "is_match": self.is_match,
      "min_inliers": self.min_inliers,
      "features": [len(each) for each in self._local],
      "putative": len(self.putative),
      "estimator": self.estimator,
      "residual_threshold": self.residual_threshold,
      "model": None if self.model is None else self.model.tolist(),
      "inliers": self.inliers.tolist(),
      "picture": self.picture and os.path.abspath(self.picture),
      "device": self.device,
      "seconds": self.seconds,
    }

  def __repr__(self) -> str:
    verdict = "a match" if self.is_match else "no match"
    one, two = (path or "a photo" for path in self.paths)
    return (
      f"<Match of {one} and {two}: {self.score} inliers,"
      f" {self.min_inliers} make a match: {verdict}>"
    )

  def _repr_jpeg_(self):
    """Return the picture that a notebook shows."""
    from delf.pictures import figures

    if self.features is None:
      return None
    photos, both = self._images(), self._local
    return figures.matches_jpeg(*photos, *both, self)

  @property
  def _sides(self) -> _Sides:
    if self.features is None:
      raise errors.InputError("this match was made without features of images")
    return self.features

  @property
  def _local(self) -> tuple[Any, Any]:
    one, two = self._sides
    return one.local, two.local

  def _images(self, images=(None, None)) -> tuple[np.ndarray, np.ndarray]:
    one, two = (
      self._ground(side, pixels)
      for side, pixels in zip(self._sides, images, strict=True)
    )
    return one, two

  @staticmethod
  def _ground(side, pixels):
    pixels = photo.pixels_of(side) if pixels is None else pixels
    return _plain_ground(side.local.locations) if pixels is None else pixels


def match(
  features_1: features.LocalFeatures,
  features_2: features.LocalFeatures,
  options: MatchOptions | None = None,
  **changes: Any,
) -> Match:
  """Match the local features of two images.

  `changes` replace fields of the options. The score is 0, and the model None,
  where there are too few features; InputError if values are not finite or
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
  **changes: Any,
) -> Match:
  """Match locations [N, 2], (y, x) pixels, with descriptors [N, D]."""
  return match_prepared(
    prepare(locations_1, descriptors_1, "image 1"),
    prepare(locations_2, descriptors_2, "image 2"),
    dataclasses.replace(options or MatchOptions(), **changes),
  )


@dataclasses.dataclass(frozen=True)
class PreparedDescriptors:
  """Descriptors prepared for searches among them, float32."""

  array: np.ndarray  # [N, D], checked.
  centre: np.ndarray  # [D], their mean.
  # [N, D], `array` less `centre`: distances do not change when the origin does,
  # and rounding errors shrink.
  centred: np.ndarray
  squares: np.ndarray  # [N], squared lengths of `centred`.

  def __len__(self) -> int:
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
      f"locations of {label} have shape {list(locations.shape)}, its"
      f" descriptors need [{len(prepared)}, 2]"
    )
  arrays.check_finite(locations, f"locations of {label}")
  return PreparedFeatures(locations[:, ::-1], prepared)


def prepare_descriptors(
  descriptors: np.ndarray, label: str = "descriptors"
) -> PreparedDescriptors:
  """Check and prepare descriptors [N, D], called `label` in errors."""
  array = np.asarray(descriptors)
  # Empty files have no dimension.
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
    estimator=options.estimator,
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
      f"descriptors have {dimensions[0]} values in image 1 and"
      f" {dimensions[1]} in image 2: extract both with one model"
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
  """Return [N1] nearest and second nearest of side 2, and whether to keep."""
  first = first - second.centre
  own = np.einsum("ij,ij->i", first, first)
  # |b|^2 - 2 a b is the squared distance but for |a|^2, which is one number per
  # row and does not change the order within it.
  first *= -2
  best = np.empty([len(first)], dtype=np.int64)
  runner_up = np.empty_like(best)
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
  second_best = runner_up if with_second else None
  if not mutual:
    return best, second_best, np.ones([len(first)], dtype=bool)
  # Of equally near ones the first alone.
  places = np.flatnonzero(least_1 <= least_2[best])
  _, chosen = np.unique(best[places], return_index=True)
  keep = np.zeros([len(first)], dtype=bool)
  keep[places[chosen]] = True
  return best, second_best, keep


def _distances(first, second, indices):
  difference = first - second[indices]
  return np.sqrt(np.einsum("ij,ij->i", difference, difference))


def _plain_ground(locations):
  """Return a plain image that is large enough for all locations."""
  size = _LEAST_GROUND
  if len(locations):
    size = np.maximum(locations.max(axis=0), 1).astype(int) + 2
  return np.full([*np.minimum(size, _LARGEST_GROUND), 3], _SHADE, np.uint8)
