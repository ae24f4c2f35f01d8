"""Models that extract features, and matching: `load`, `Model`, `match`."""

import contextlib
import dataclasses
import functools
import operator
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, overload

from absl import logging

from delf.base import errors, progress
from delf.base.progress import Progress
from delf.extraction import engine, extract
from delf.formats import configs, features
from delf.inference import photo as photos
from delf.inference import zoo
from delf.matching import geometry, matcher
from delf.protos import delf_config_pb2

# Endings of files with local features.
_FEATURES = (".delf", ".delg_local")

# One side of a match: a photo, its features, or the path of its feature file.
Side = photos.Photo | features.ImageFeatures | features.LocalFeatures

# Threads that decode photos while the model runs.
_DECODING = 1
_shown = progress.shown  # `progress` is an argument below.


def configure(
  model: str | os.PathLike | delf_config_pb2.DelfConfig | None = None,
  *,
  config: str | os.PathLike | None = None,
  max_size: int | None = None,
  max_features: int | None = None,
  local_only: bool = False,
  global_only: bool = False,
) -> delf_config_pb2.DelfConfig:
  """Return the checked configuration that `load` would use."""
  if isinstance(model, delf_config_pb2.DelfConfig):
    chosen = delf_config_pb2.DelfConfig()
    chosen.CopyFrom(model)
  else:
    chosen = zoo.choose(model, config)
  if local_only and global_only:
    raise errors.InputError("local_only and global_only exclude each other")
  for is_only, others in (
    (local_only, ("use_local_features", "use_global_features")),
    (global_only, ("use_global_features", "use_local_features")),
  ):
    if is_only:
      setattr(chosen, others[0], True)
      setattr(chosen, others[1], False)
  if max_size:
    chosen.max_image_size = max_size
  if max_features:
    chosen.delf_local_config.max_feature_num = max_features
  configs.check_delf_config(chosen, config)
  return chosen


def load(
  model: str | os.PathLike | delf_config_pb2.DelfConfig | None = None,
  *,
  config: str | os.PathLike | None = None,
  max_size: int | None = None,
  max_features: int | None = None,
  local_only: bool = False,
  global_only: bool = False,
  rotate: bool = False,
  device: str | None = None,
) -> "Model":
  """Load a model that extracts features.

  Args:
    model: Name of a known model (`delf models` lists them), folder of a
      SavedModel, `.onnx` or `.tflite` file, or a DelfConfig; None for that of
      `config`, or the embedded one.
    config: `.pbtxt` file with a DelfConfig; None for the settings of the model.
    max_size: Pixels that the longer side of photos is scaled down to.
    max_features: Most local features of a photo.
    local_only: Whether to leave out the global descriptor.
    global_only: Whether to leave out local features.
    rotate: Whether to apply the EXIF orientation of photos, in place of using
      them as stored.
    device: "cpu", "gpu" or "gpu:N"; None for the best.

  Raises:
    InputError: If the model is not known, or its settings are not valid.
    FileNotFoundError: If one of its files is missing.

  Example:
    >>> import delf
    >>> model = delf.load("delf-compact", max_features=500)
    >>> model
    <Model delf-compact: local and global features, on CPU>
  """
  chosen = configure(
    model,
    config=config,
    max_size=max_size,
    max_features=max_features,
    local_only=local_only,
    global_only=global_only,
  )
  return Model(chosen, rotate=rotate, device=device)


class Model:
  """A loaded model; `delf.load` makes it. Safe to use from several threads.

  Attributes:
    config: DelfConfig of the extraction.
    rotate: Whether the EXIF orientation of photos is applied.
    device: Where it runs, such as "CPU" or "GPU:0 (name)".
  """

  def __init__(
    self,
    config: delf_config_pb2.DelfConfig,
    *,
    rotate: bool = False,
    device: str | None = None,
  ):
    # TensorFlow is loaded here, or the runtime of `.onnx` or `.tflite` files.
    from delf.inference import extractor

    self.config = config
    self.rotate = rotate
    self.extractor = extractor.make_extractor(config, device)
    self.device: str = self.extractor.device

  @overload
  def extract(  # type: ignore[overload-overlap]
    self, photo: photos.Photo, *, skip_failed: bool = False
  ) -> features.ImageFeatures: ...

  @overload
  def extract(
    self,
    photo: Sequence[photos.Photo],
    *,
    batch: int | None = None,
    skip_failed: bool = False,
    progress: Progress = False,
  ) -> list[features.ImageFeatures]: ...

  def extract(self, photo, *, batch=None, skip_failed=False, progress=False):
    """Extract the features of a photo, or of a list of photos.

    Args:
      photo: Path, bytes or open file of an image, Pillow image, or pixels [H,
        W, 3] uint8 (RGB); or a list of them, which are decoded ahead.
      batch: Most photos of one size that are extracted at once; None for 1 on a
        CPU, and as many as fit in memory on a GPU.
      skip_failed: Whether a photo of a list that cannot be used is left out
        with a warning: None stands in its place.
      progress: Whether to show the progress of a list, or a function that is
        called with a label, the photos done and their number.

    Returns:
      ImageFeatures of the photo, with its `path` if it has one; or a list, in
      the order of the photos.

    Raises:
      InputError: If a photo cannot be decoded, or the model gives NaN.
      FileNotFoundError: If there is no such photo.

    Example:
      >>> import delf
      >>> photos = delf.sample_photos("sample_photos")
      >>> features = delf.load().extract(photos[0])
      >>> features.local.locations.shape == (len(features.local), 2)
      True
      >>> features.global_descriptor.shape
      (256,)
    """
    if not isinstance(photo, list | tuple):
      pixels = photos.pixels(photo := photos.hold(photo), self.rotate)
      return self._finish(photo, self.extractor.extract(pixels))
    with _shown(progress):
      return self._extract_all(photo, batch, skip_failed)

  def _extract_all(self, photos_given, batch, skip_failed):
    held = [photos.hold(each) for each in photos_given]
    jobs = [
      engine.Job(
        photos.label(each),
        str(number),
        photo=None if photos.is_path(each) else each,
      )
      for number, each in enumerate(held)
    ]
    load = functools.partial(photos.pixels, rotate=self.rotate)
    decoded = engine.decode_ahead(jobs, load, _DECODING)
    limit = engine.memory_limit(self.config, self.device, batch)
    steps = engine.BatchExtractor(self.extractor, limit).run(decoded)
    results: list = [None] * len(jobs)
    for done, result in progress.track(steps, "extracting", len(jobs)):
      number = int(done.job.name)
      if not isinstance(result, Exception):
        results[number] = self._finish(held[number], result)
      elif not skip_failed:
        raise result
      else:
        failure = engine.Failure.of(f"{done.job.path}", result)
        logging.warning("photo %d is skipped: %s", number, failure)
    return results

  def _finish(self, photo, extracted):
    is_path = photos.is_path(photo)
    return features.ImageFeatures(
      extracted.local,
      extracted.global_descriptor,
      os.fspath(photo) if is_path else None,
      None if is_path else photo,
      self.rotate,
    )

  def __repr__(self) -> str:
    kinds = {
      "local": self.config.use_local_features,
      "global": self.config.use_global_features,
    }
    used = " and ".join(kind for kind, is_used in kinds.items() if is_used)
    return (
      f"<Model {self.config.model_path}: {used} features, on {self.device}>"
    )


def match(
  first: Side,
  second: Side,
  *,
  model: Model | str | os.PathLike | delf_config_pb2.DelfConfig | None = None,
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
  named = None if isinstance(model, Model) else model
  rotated = (rotate and images is None) or None
  chosen = {"model": named, "rotate": rotated} | load
  _check_sides(sides, chosen, model is not None or load.get("config"))
  if isinstance(model, Model):
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
    if not isinstance(model, Model):
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


def _check_sides(sides, options, has_model):
  """Refuse features and a photo of unknown models, and unused options."""
  known = [
    isinstance(side, features.LocalFeatures | features.ImageFeatures)
    for side in sides
  ]
  files = [_is_feature_file(side) for side in sides]
  extracted = list(map(operator.or_, files, known))
  if any(files) and not all(extracted):
    raise errors.InputError(
      "a feature file and a photo cannot be matched: extract the photo first,"
      " with the same model"
    )
  if any(known) and not all(extracted) and not has_model:
    raise errors.InputError(
      "features and a photo need `model`, the one that extracted the features"
    )
  unused = [name for name, value in options.items() if value is not None]
  if unused and all(extracted):
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
  config = configure(model, config=load["config"], max_size=load["max_size"])
  if not config.use_local_features:
    raise errors.InputError(
      "matching needs local features: use_local_features is false in the"
      " configuration of this model",
      path=config.model_path or None,
    )
  config.use_global_features = False
  return Model(config, rotate=rotate, device=load["device"])


@contextlib.contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
  start = time.perf_counter()
  yield
  seconds[step] = time.perf_counter() - start
