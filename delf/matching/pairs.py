"""Matching of two images or feature files, to a score and a picture."""

import contextlib
import dataclasses
import os
import time
import typing

import numpy as np

from delf.base import errors
from delf.extraction import output_folder
from delf.formats import features
from delf.matching import matcher
from delf.python import utils

# As the original's script.
SCRIPT_OPTIONS = matcher.MatchOptions.one_way(0.8, 20.0)

# Grey of a side whose image is not given, and its least and largest size.
_SHADE = 232
_LEAST_GROUND, _LARGEST_GROUND = (240, 320), 8192

_Image = str | os.PathLike | np.ndarray


@dataclasses.dataclass(frozen=True)
class MatchResult:
  """Result of matching two images."""

  match: matcher.Match
  features: tuple[features.LocalFeatures, features.LocalFeatures]
  # Seconds of "read", "load model", "extract", "match", "draw", if done.
  timings: dict[str, float]
  picture: str | None = None
  device: str = ""  # That extracted.

  @property
  def score(self) -> int:
    """Number of inliers."""
    return self.match.score

  @property
  def is_match(self) -> bool:
    """Whether the images show the same thing."""
    return self.match.is_match


def match_images(
  image_1: _Image,
  image_2: _Image,
  config: typing.Any = None,
  *,
  output: str | os.PathLike | None = None,
  options: matcher.MatchOptions | None = None,
  device: str | None = None,
  apply_rotation: bool = False,
  extractor: typing.Any = None,
) -> MatchResult:
  """Extract the local features of two images and match them.

  Args:
    image_1: Path, or [H, W, 3] uint8.
    image_2: Path, or [H, W, 3] uint8.
    config: DelfConfig, or name of a known model, or None for the embedded one.
      Of a configuration local features alone are computed.
    output: Path of the picture, whose extension decides the format.
    device: Such as "cpu" or "gpu:1"; None for the best one.
    apply_rotation: Whether images are turned as their EXIF orientation says.
    extractor: Replaces one made from the configuration, so that many pairs
      share it.

  Raises:
    InputError: If an image, the model or the configuration is not right.
    FileNotFoundError: If a file does not exist.
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
  options: matcher.MatchOptions | None = None,
  apply_rotation: bool = False,
) -> MatchResult:
  """Match two files of local features; see `match_images`.

  Without their images the picture is drawn on plain grounds.
  """
  _check_output(output)
  timings = {}
  with _timed(timings, "read"):
    both = [output_folder.read_local(path) for path in (features_1, features_2)]
    if output is not None and images is not None:
      images = [_load(each, apply_rotation) for each in images]
  return _match(both, images, output, options, timings, "")


def _match(both, images, output, options, timings, device):
  with _timed(timings, "match"):
    match = matcher.match(*both, options)
  if output is not None:
    from delf.pictures import figures

    with _timed(timings, "draw"):
      images = images or [_plain_ground(each.locations) for each in both]
      figures.draw_matches(output, *images, *both, match)
    output = os.fspath(output)
  return MatchResult(match, tuple(both), timings, output, device)


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
