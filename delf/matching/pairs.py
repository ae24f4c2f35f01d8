"""Matching of two images or feature files, to a score and a picture."""

import contextlib
import dataclasses
import os
import time

import numpy as np

from delf.base import arrays, errors
from delf.formats import features
from delf.matching import matcher
from delf.python import feature_io, utils

# As the original's script: one-way nearest neighbours within this distance, an
# affine map, residuals of at most 20 pixels.
SCRIPT_OPTIONS = matcher.MatchOptions(
  max_distance=0.8, mutual=False, residual_threshold=20.0
)

_SHADE = 232  # Of a side whose image is not given.


@dataclasses.dataclass(frozen=True)
class MatchResult:
  """What came of matching two images.

  Attributes:
    match: matching.Match.
    features: features.LocalFeatures of image 1 and of image 2.
    timings: dict of seconds by step: "read", "load model", "extract", "match"
      and "draw", those that were done.
    picture: Path of the picture, or None where none was asked for.
    device: Words for the device that extracted; "" if nothing was.
  """

  match: matcher.Match
  features: tuple[features.LocalFeatures, features.LocalFeatures]
  timings: dict[str, float]
  picture: str | None = None
  device: str = ""

  @property
  def score(self):
    """Number of inliers."""
    return self.match.score

  @property
  def is_match(self):
    """Whether the images show the same thing."""
    return self.match.is_match


def match_images(
  image_1,
  image_2,
  config=None,
  *,
  output=None,
  options=None,
  device=None,
  apply_rotation=False,
  extractor=None,
):
  """Extracts the local features of two images and matches them.

  Args:
    image_1: Path, or [H, W, 3] uint8.
    image_2: Path, or [H, W, 3] uint8.
    config: delf_config_pb2.DelfConfig, or name of a known model, or None for
      the embedded one. Of a configuration local features alone are computed.
    output: Path of the picture, whose extension decides the format, or None.
    options: matching.MatchOptions, or None for the defaults.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.
    apply_rotation: Whether images are turned as their EXIF orientation says.
    extractor: Extractor to use in place of one made from the configuration, so
      that many pairs share one.

  Returns:
    MatchResult. Images without features, or without any match, score 0.

  Raises:
    InputError: If an image, the model, the configuration or an option is not
      right.
    FileNotFoundError: If a file is not there.
  """
  _check_output(output)
  clock = _Clock()
  with clock("read"):
    images = [_load(each, apply_rotation) for each in (image_1, image_2)]
  if extractor is None:
    with clock("load model"):
      extractor = _make_extractor(config, device)
  with clock("extract"):
    found = [_extract(extractor, image) for image in images]
  return _match(
    found, images, output, options, clock, getattr(extractor, "device", "")
  )


def match_feature_files(
  features_1,
  features_2,
  images=None,
  *,
  output=None,
  options=None,
  apply_rotation=False,
):
  """Matches two files of local features.

  Args:
    features_1: Path of a `.delf` or `.delg_local` file.
    features_2: Path of a `.delf` or `.delg_local` file.
    images: The two images that they are of, for the picture: paths or
      [H, W, 3] uint8; or None to draw on plain grounds.
    output: Path of the picture, whose extension decides the format, or None.
    options: matching.MatchOptions, or None for the defaults.
    apply_rotation: Whether images are turned as their EXIF orientation says.

  Returns:
    MatchResult. Files without features, or without any match, score 0.

  Raises:
    InputError: If a file is not what it should be, or an option is not right.
    FileNotFoundError: If a file is not there.
  """
  _check_output(output)
  clock = _Clock()
  with clock("read"):
    found = [_read_features(path) for path in (features_1, features_2)]
    if output is not None and images is not None:
      images = [_load(each, apply_rotation) for each in images]
  return _match(found, images, output, options, clock, "")


class _Clock:
  """Collects the seconds of each step."""

  def __init__(self):
    self.seconds = {}

  @contextlib.contextmanager
  def __call__(self, step):
    start = time.perf_counter()
    yield
    self.seconds[step] = time.perf_counter() - start


def _match(found, images, output, options, clock, device):
  """Returns the MatchResult of two features.LocalFeatures."""
  with clock("match"):
    match = matcher.match(*found, options)
  if output is not None:
    from delf.pictures import figures

    with clock("draw"):
      if images is None:
        images = [_plain(each) for each in found]
      figures.draw_matches(output, *images, *found, match)
  return MatchResult(
    match=match,
    features=tuple(found),
    timings=clock.seconds,
    picture=None if output is None else os.fspath(output),
    device=device or "",
  )


def _check_output(output):
  """Refuses a picture that cannot be written before any work is done."""
  if output is not None:
    from delf.pictures import figures

    figures.check_path(output)


def _load(image, apply_rotation):
  """Returns an image as [H, W, 3] uint8."""
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


def _extract(extractor, image):
  found = extractor.extract(image).local
  if found is None:
    raise errors.InputError("an extractor of local features", "none of them")
  return found


def _read_features(path):
  """Returns the local features of a file, checked to be numbers."""
  found = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    arrays.check_finite(getattr(found, name), name, path)
  return found


def _plain(found):
  """Returns a plain ground that holds all locations."""
  height, width = 240, 320
  if len(found):
    height, width = np.maximum(found.locations.max(axis=0), 1).astype(int) + 2
  return np.full([min(height, 8192), min(width, 8192), 3], _SHADE, np.uint8)
