"""The record of what a training is of, and how another one differs."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib

import numpy as np
from PIL import Image

from delf.base import concurrency, errors, files, manifest, progress
from delf.extraction import engine
from delf.python import utils

_PIXELS, _RECORD = "photos.u8", "photos.json"

# Nothing can be learnt of a photo whose shorter side has fewer pixels.
_LEAST_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Store:
  """Decoded photos.

  Attributes:
    images: list of [H, W, 3] uint8, RGB, memory-mapped; None for one that was
      left out.
    failures: tuple of engine.Failure, those that were.
  """

  images: list
  failures: tuple


def digest_photo_store(paths):
  """Returns words that other photos, or the same ones changed, do not have."""
  found = hashlib.sha256()
  for path in paths:
    try:
      stat = os.stat(path)
      stamp = (stat.st_size, stat.st_mtime_ns)
    except OSError:
      stamp = None
    found.update(f"{path}\0{stamp}\0".encode(errors="surrogateescape"))
  return found.hexdigest()


def gather(paths, folder, size, rotate=False):
  """Decodes photos once, on all cores; a run that is repeated finds them.

  In memory are the few that are being decoded.

  Args:
    paths: Paths of photos.
    folder: pathlib.Path for the file: 3 bytes a pixel of the working size.
    size: Pixels that the longer side is scaled down to.
    rotate: Whether the EXIF orientation is applied.

  Returns:
    Store. A photo that cannot be decoded, or is too small, is a failure.
  """
  if not (folder / _RECORD).exists():
    _write(paths, folder, size, rotate)
  record = json.loads(files.read_bytes(folder / _RECORD))
  pixels = np.zeros(0, np.uint8)
  if (folder / _PIXELS).stat().st_size:
    # An array as such: OpenCV takes no memory map.
    pixels = np.asarray(np.memmap(folder / _PIXELS, np.uint8, "r"))
  images, start = [], 0
  for shape in record["shapes"]:
    if shape is None:
      images.append(None)
      continue
    end = start + shape[0] * shape[1] * 3
    images.append(pixels[start:end].reshape(*shape, 3))
    start = end
  failures = tuple(engine.Failure(*failure) for failure in record["failures"])
  return Store(images, failures)


def _write(paths, folder, size, rotate):
  shapes, failures = [], []
  with (
    files.atomic_path(folder / _PIXELS) as temporary,
    open(temporary, "wb") as file,
  ):
    found = _decoded(paths, size, rotate)
    for path, image in zip(
      paths, progress.track(found, "reading photos", len(paths)), strict=True
    ):
      reason = engine.find_problem(path, image) if _is_bad(image) else None
      if reason:
        failures.append((os.fspath(path), reason))
        shapes.append(None)
      else:
        shapes.append(image.shape[:2])
        file.write(image.data)
  record = json.dumps({"shapes": shapes, "failures": failures})
  files.write_bytes(folder / _RECORD, record.encode())


def _is_bad(image):
  return isinstance(image, Exception)


def _decoded(paths, size, rotate):
  """Yields each photo in turn, or the exception that came in its place."""
  workers = concurrency.core_count()
  decode = functools.partial(_decode, size=size, rotate=rotate)
  return concurrency.map_ahead(decode, paths, workers, 2 * workers + 1)


def _decode(path, size, rotate):
  try:
    image = utils.RgbLoader(path, rotate, at_least=(size, size))
    share = min(1.0, size / max(image.size))
    width, height = (max(1, round(side * share)) for side in image.size)
    if min(width, height) < _LEAST_SIDE:
      raise errors.InputError(
        f"a photo of {_LEAST_SIDE} pixels or more a side at {size} pixels",
        f"{width} x {height}",
      )
    if share < 1:
      image = image.resize((width, height), Image.Resampling.BOX)
    return np.ascontiguousarray(image)
  except Exception as error:  # noqa: BLE001 - one bad photo ends no run
    return error


# Of the embedded model's network, and of a model without any training.
SCRATCH = "scratch"

# Fewer are no material: a tenth of them is kept to measure with.
FEWEST_PHOTOS = 10

# What `self_supervised.data` asks for, said before photos are read.
_OPTIONS_LEAST_SIDE, _STRIDE = 64, 8

# Values of `labels` that are no file.
AUTO, FOLDERS, NO_LABELS = "auto", "folders", "none"


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """What a training is told.

  Attributes:
    start: Model to begin with: name of the embedded one, "scratch", folder of
      an exported model, or a checkpoint (.npz) of training.
    labels: "folders", "none", "auto" (folders, where photos lie in sub-folders
      alone), or path of a CSV file of photos and classes.
    minutes: Time to learn; None where `steps` says how much.
    steps: Steps to learn, or None.
    rate: Highest learning rate; None for 3e-4, or 1.5e-3 from scratch.
    batch: Pairs of views in a step; None for 8, or as many as there can be.
    view: Pixels of a view's side.
    size: Pixels that the longer side of photos is scaled down to.
    seed: Of all that is random.
    rotate: Whether photos are turned as their EXIF orientation says.
  """

  start: str = "delf-compact"
  labels: str = AUTO
  minutes: float | None = None
  steps: int | None = None
  rate: float | None = None
  batch: int | None = None
  view: int = 192
  size: int = 400
  seed: int = 0
  rotate: bool = False

  def __post_init__(self):
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("a number of minutes or of steps", "both or none")
    for name, value in (("view", self.view), ("size", self.size)):
      if value < _OPTIONS_LEAST_SIDE or (name == "view" and value % _STRIDE):
        raise errors.InputError(
          f"a {name} of {_OPTIONS_LEAST_SIDE} pixels or more, a view a "
          f"multiple of {_STRIDE}",
          value,
        )

  @property
  def highest_rate(self):
    """The learning rate that is used."""
    if self.rate is not None:
      return self.rate
    return 1.5e-3 if self.start == SCRATCH else 3e-4

  def budget(self):
    """Returns the minutes or steps as words."""
    if self.steps is not None:
      return f"{self.steps} steps"
    return f"{self.minutes:g} minutes"


RECORD = "training.json"
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Told:
  """What a training is told.

  Attributes:
    options: TrainOptions.
    settings: dict of plain values that two runs are compared by.
    command: Words of the command.
  """

  options: TrainOptions
  settings: dict
  command: tuple


def settings_of(found, told, weights):
  """Returns what two runs are compared by.

  Args:
    found: sources.Sources.
    told: options.TrainOptions.
    weights: pathlib.Path of the weights to begin with, or None.

  Returns:
    dict of plain values.
  """
  settings = dataclasses.asdict(told)
  settings["photos"] = (
    f"{len(found.paths)} photos ({digest_photo_store(found.paths)[:12]})"
  )
  if found.labels is not None:
    text = "\0".join(map(str, found.labels)).encode(errors="surrogateescape")
    digest = hashlib.sha256(text).hexdigest()[:12]
    settings["classes"] = f"{len(found.classes())} classes ({digest})"
  if weights is not None:
    digest = hashlib.sha256(files.read_bytes(weights)).hexdigest()[:12]
    settings["first weights"] = digest
  return settings


def refuse_other_things(folder):
  """Refuses a folder of an unfinished run that has others' files in it.

  Args:
    folder: pathlib.Path; hidden files are of a run that ended at once.

  Raises:
    InputError: If it is not of a run; nothing in it may be removed.
  """
  if folder.exists() and not folder.is_dir():
    raise errors.InputError("a folder for what is unfinished", "a file", folder)
  if not folder.exists() or (folder / _SETTINGS).exists():
    return
  if any(not path.name.startswith(".") for path in folder.iterdir()):
    raise errors.InputError(
      "a folder of an unfinished training, or none",
      "one with other things in it",
      folder,
    )


def is_leftover(out, folder, last):
  """Returns whether a run ended between its model and its own removal.

  Args:
    out: pathlib.Path of the model.
    folder: pathlib.Path of the unfinished run.
    last: Name of the file there that a run writes last.
  """
  record, settings = out / RECORD, folder / _SETTINGS
  if not all(path.exists() for path in (record, settings, folder / last)):
    return False
  return _read(record).get("settings") == _read(settings)


def claim(folder, settings):
  """Writes down what a run is of, or compares it with the run before.

  Args:
    folder: pathlib.Path of the unfinished run.
    settings: dict of plain values.

  Raises:
    InputError: If the run there is of others; it names what differs.
  """
  path = folder / _SETTINGS
  if path.exists():
    _refuse_others(path, _read(path), settings, "an unfinished training")
    return
  files.write_bytes(path, json.dumps(settings, indent=2).encode())


def refuse_finished(out, settings, overwrite=False):
  """Refuses a folder that there is; it names how a training in it differs.

  Args:
    out: Folder of the model to be.
    settings: dict of plain values of the run that would be.
    overwrite: Whether a finished training there may be replaced.

  Raises:
    InputError: If there is something.
  """
  out = pathlib.Path(out)
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  expected = "a new folder, or --overwrite"
  if not out.is_dir():
    raise errors.InputError("a folder", "a file", out)
  record = out / RECORD
  if not record.exists():
    raise errors.InputError("a new folder", "one with other things in it", out)
  if overwrite:
    return
  found = _read(record).get("settings", {})
  words = manifest.difference(found, settings) or "of the same settings"
  raise errors.InputError(expected, f"a finished model {words}", out)


def _refuse_others(path, found, wanted, what):
  words = manifest.difference(found, wanted)
  if words:
    raise errors.InputError(
      f"{what} of the same photos and settings (or --overwrite)",
      f"one {words}",
      path.parent,
    )


def _read(path):
  try:
    found = json.loads(files.read_bytes(path, limit=2**24))
    if isinstance(found, dict):
      return found
  except (ValueError, RecursionError):
    pass
  raise errors.InputError("a record of a training", "something else", path)
