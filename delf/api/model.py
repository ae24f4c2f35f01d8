"""Models that extract features: `delf.load` and `delf.Model`."""

import functools
import os
from collections.abc import Sequence
from typing import overload

from absl import logging

from delf.base import errors, progress
from delf.base.progress import Progress
from delf.extraction import engine
from delf.formats import configs, features
from delf.inference import photo as photos
from delf.inference import zoo
from delf.protos import delf_config_pb2

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
        logging.warning("photo %d is left out: %s", number, failure)
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
