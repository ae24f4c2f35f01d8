"""Matching two photos: `delf.match`."""

import contextlib
import dataclasses
import operator
import os
import time
from collections.abc import Iterator
from typing import Any

from delf.api import model as models
from delf.base import errors
from delf.extraction import extract
from delf.formats import features
from delf.inference import photo as photos
from delf.matching import geometry, matcher
from delf.protos import delf_config_pb2

# Endings of files with local features.
_FEATURES = (".delf", ".delg_local")

# One side of a match: a photo, its features, or the path of its feature file.
Side = photos.Photo | features.ImageFeatures | features.LocalFeatures


def match(
  first: Side,
  second: Side,
  *,
  model: models.Model
  | str
  | os.PathLike
  | delf_config_pb2.DelfConfig
  | None = None,
  config: str | os.PathLike | None = None,
  max_size: int | None = None,
  rotate: bool = False,
  device: str | None = None,
  estimator: str = geometry.AFFINE,
  ratio: float | None = None,
  distance: float | None = None,
  one_way: bool = False,
  threshold: float | None = None,
  min_inliers: int | None = None,
  seed: int = 0,
  out: str | os.PathLike | None = None,
  images: tuple[photos.Photo, photos.Photo] | None = None,
) -> matcher.Match:
  """Match two photos by their local features.

  Features whose descriptors are nearest to each other are putative matches;
  those that agree with one map between the photos are inliers.

  Args:
    first: Photo (path, bytes, file, Pillow image or pixels), features that
      `Model.extract` returned, or the path of a `.delf` file.
    second: The same of the other photo.
    model: For photos: a loaded Model, or a model as `delf.load` takes it. To
      match many photos load one, so that it is loaded once.
    config: With `max_size`, `rotate` and `device`, as `delf.load` takes them.
    estimator: Kind of map: "affine", "homography" or "fundamental".
    ratio: Keep matches nearer than this share of the second nearest distance
      (Lowe, IJCV 2004); None keeps all.
    distance: Keep matches of descriptors nearer than this; None keeps all.
    one_way: Whether the second feature may have a nearer one in the first
      photo, as in the papers.
    threshold: Most pixels that an inlier may be off; None for 20 (affine), 10
      (homography) or 3 (fundamental).
    min_inliers: Inliers that make a match; None for more than chance explains.
    seed: Seed of RANSAC; the result is the same for the same seed.
    out: Path of a picture; its extension decides the format.
    images: For features without a photo: the photos to draw.

  Raises:
    InputError: If a photo or an option cannot be used.
    FileNotFoundError: If a file is missing.

  Example:
    >>> import delf
    >>> left, right, other = delf.sample_photos("sample_photos")
    >>> model = delf.load()
    >>> a, b, c = model.extract([left, right, other])
    >>> delf.match(a, b).is_match, delf.match(a, c).is_match
    (True, False)
  """
  options = matcher.MatchOptions(
    max_distance=distance,
    ratio=ratio,
    mutual=not one_way,
    estimator=estimator,
    residual_threshold=threshold,
    seed=seed,
    min_inliers=min_inliers,
  )
  load = {"config": config, "max_size": max_size, "device": device}
  return match_sides(
    (first, second), options, model, rotate, out, images, **load
  )


def match_sides(
  sides: tuple[Side, Side],
  options: matcher.MatchOptions,
  model: Any = None,
  rotate: bool = False,
  out: str | os.PathLike | None = None,
  images: tuple[photos.Photo, photos.Photo] | None = None,
  **load: Any,
) -> matcher.Match:
  """Match as `match` does, by MatchOptions; `load` are options of the model."""
  if out is not None:
    # A picture that cannot be written is refused before any work.
    from delf.pictures import figures

    figures.check_path(out)
  seconds: dict[str, float] = {}
  named = None if isinstance(model, models.Model) else model
  rotated = (rotate and images is None) or None
  _check_sides(sides, {"model": named, "rotate": rotated} | load)
  if isinstance(model, models.Model):
    rotate = model.rotate
  with _timed(seconds, "read"):
    read = [_read(side, rotate) for side in sides]
    pictures = [pixels for _, pixels in read]
    if images is not None:
      if any(pixels is not None for pixels in pictures):
        raise errors.InputError("images go with features, not with photos")
      pictures = [photos.pixels(each, rotate) for each in images]
  device = ""
  if any(extracted is None for extracted, _ in read):
    if not isinstance(model, models.Model):
      with _timed(seconds, "load model"):
        model = _load(model, rotate, load)
    device = model.device
  with _timed(seconds, "extract") if device else contextlib.nullcontext():
    one, two = (
      _extracted(extracted, pixels, side, model)
      for (extracted, pixels), side in zip(read, sides, strict=True)
    )
  with _timed(seconds, "match"):
    match = matcher.match(one.local, two.local, options)
  match = dataclasses.replace(
    match, features=(one, two), seconds=seconds, device=device
  )
  if out is None:
    return match
  with _timed(seconds, "draw"):
    picture = match.draw(out, pictures)
  return dataclasses.replace(match, picture=picture)


def _check_sides(sides, options):
  """Refuse features and a photo of unknown models, and unused options."""
  known = [
    isinstance(side, features.LocalFeatures | features.ImageFeatures)
    for side in sides
  ]
  files = [_is_feature_file(side) for side in sides]
  if any(files) and not all(map(operator.or_, files, known)):
    raise errors.InputError(
      "a feature file and a photo cannot be matched: extract the photo first,"
      " with the same model"
    )
  unused = [name for name, value in options.items() if value is not None]
  if unused and all(map(operator.or_, files, known)):
    names = ", ".join(unused)
    raise errors.InputError(
      f"{names}: of no effect on features that exist already"
    )


def _is_feature_file(side):
  return photos.is_path(side) and os.fspath(side).lower().endswith(_FEATURES)


def _read(side, rotate):
  """Return the features of a side, or the pixels to extract them from."""
  if isinstance(side, features.LocalFeatures):
    return features.ImageFeatures(side), None
  if isinstance(side, features.ImageFeatures):
    return side, None
  if _is_feature_file(side):
    return features.ImageFeatures(extract.read_local(side)), None
  return None, photos.pixels(side, rotate)


def _extracted(extracted, pixels, side, model):
  if extracted is None:
    extracted = model.extract(pixels)
    if photos.is_path(side):
      extracted = dataclasses.replace(
        extracted, path=os.fspath(side), image=None
      )
  if extracted.local is None:
    raise errors.InputError(
      "matching needs local features, but these have none"
    )
  return extracted


def _load(model, rotate, load):
  config = models.configure(
    model, config=load["config"], max_size=load["max_size"]
  )
  if not config.use_local_features:
    raise errors.InputError(
      "matching needs local features: use_local_features is false in the"
      " configuration of this model",
      path=config.model_path or None,
    )
  config.use_global_features = False
  return models.Model(config, rotate=rotate, device=load["device"])


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
  start = time.perf_counter()
  yield
  seconds[step] = time.perf_counter() - start
