"""A folder in which a collection of images is kept, to be searched.

Of a collection with regions each region of an image is an entry of its own:
`<image>_0` is the whole image, `<image>_1` and so on are its boxes.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from google.protobuf import text_format

from delf.aggregation import visual_words
from delf.base import errors, files
from delf.formats import configs
from delf.protos import aggregation_config_pb2, delf_config_pb2
from delf.python import whiten

VERSION = 1

# Files of a collection. Features lie in a folder of their own, or stay where
# they were when that is what the user gave.
RECORD = "collection.json"
PHOTOS = "photos.json"
CONFIG = "config.pbtxt"
AGGREGATION = "aggregation.pbtxt"
CODEBOOK = "codebook"
WHITENING = "whitening.datum"
REGIONS = "regions.json"
FEATURES = "features"
BOXES = "boxes"
QUERIES = "queries"

# Temporary files of these are leftovers of killed runs.
_STEMS = ("global", "words", "global.files", "words.files") + tuple(
  os.path.splitext(name)[0]
  for name in (RECORD, PHOTOS, CONFIG, AGGREGATION, WHITENING)
)

# Follows the name of an image for the whole of it.
_WHOLE = "_0"


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a collection was made with; `config.pbtxt` has the extraction."""

  features: str = FEATURES  # Absolute, or relative to the collection.
  local_extension: str = files.DELF  # "" without local features.
  has_global: bool = True
  apply_rotation: bool = False  # As the EXIF orientation says.


@dataclasses.dataclass(frozen=True)
class RegionSettings:
  """Which regions the images of a collection have."""

  detector: str  # Name or folder.
  threshold: float = 0.1  # Least score of a box.
  most: int | None = None  # Boxes of an image, the best; None for all.

  def __post_init__(self):
    if not math.isfinite(self.threshold):
      raise errors.InputError("a finite threshold", f"{self.threshold}")
    if os.path.exists(self.detector):
      # The collection may be added to from another folder.
      object.__setattr__(self, "detector", os.path.abspath(self.detector))

  def __str__(self):
    most = "" if self.most is None else f", at most {self.most}"
    return f"{self.detector} from {self.threshold:g} on{most}"


class Collection:
  """The files of one collection."""

  def __init__(self, folder: str | os.PathLike, settings: Settings):
    """Describe a collection that is to be; `open_folder` reads one."""
    self.folder = pathlib.Path(folder)
    self.settings = settings
    self._temporary = None

  @property
  def features(self) -> pathlib.Path:
    """Folder of feature files."""
    return self.folder / self.settings.features

  def make_queries(self) -> pathlib.Path:
    """Make and return the folder for features of queries.

    Where nothing can be written in the collection it is a temporary one, which
    goes with this object.
    """
    if self.writable_folder() is None:
      if self._temporary is None:
        self._temporary = tempfile.mkdtemp(prefix="delf_queries_")
        weakref.finalize(self, shutil.rmtree, self._temporary, True)
      return pathlib.Path(self._temporary)
    path = self.folder / QUERIES
    path.mkdir(exist_ok=True)
    return path

  def writable_folder(self) -> pathlib.Path | None:
    """Return the folder, or None where nothing can be written in it."""
    return self.folder if os.access(self.folder, os.W_OK) else None

  @property
  def has_codebook(self) -> bool:
    """Whether local features are aggregated into visual words."""
    return (self.folder / AGGREGATION).exists()

  def feature_path(self, name: str, extension: str) -> pathlib.Path:
    """Return the path of a feature file of an entry."""
    return self.features / f"{name}{extension}"

  def whitening(self) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (mean [D, 1], projection [K, D]) of global descriptors."""
    path = self.folder / WHITENING
    return whiten.read_whitening(path) if path.exists() else None

  def delf_config(self) -> delf_config_pb2.DelfConfig | None:
    """Return the configuration that queries are extracted with, if known."""
    path = self.folder / CONFIG
    return configs.read_delf_config(path) if path.exists() else None

  def aggregation_config(self) -> aggregation_config_pb2.AggregationConfig:
    """Return the aggregation, its codebook's path made whole."""
    config = configs.read_aggregation_config(self.folder / AGGREGATION)
    config.codebook_path = os.fspath(self.folder / config.codebook_path)
    return config

  def has_words(
    self, config: aggregation_config_pb2.AggregationConfig, codebook: np.ndarray
  ) -> bool:
    """Return whether the aggregation and its codebook are these."""
    own = self.aggregation_config()
    same = np.array_equal(
      visual_words.read_codebook(own.codebook_path), codebook
    )
    own.codebook_path = config.codebook_path
    return same and own == config

  def regions(self) -> RegionSettings | None:
    """Return which regions images have; None if they are indexed whole."""
    path = self.folder / REGIONS
    if not path.exists():
      return None
    try:
      return RegionSettings(**json.loads(files.read_bytes(path)))
    except (ValueError, TypeError, RecursionError):
      raise errors.InputError(
        "settings of regions", "something else", path
      ) from None

  def images_of(self, entries: Iterable[str]) -> list[str]:
    """Return the name of the image of each entry of an index."""
    has_regions = self.regions() is not None
    return list(map(image_of, entries)) if has_regions else list(entries)

  def whole(self, name: str) -> str:
    """Return the name of the entry, and feature file, of a whole image."""
    return f"{name}{_WHOLE}" if (self.folder / REGIONS).exists() else name

  def photos(self) -> dict[str, str]:
    """Return the paths of photos, where they are known, by name."""
    path = self.folder / PHOTOS
    return _read_json(path, "photos by name") if path.exists() else {}

  def write_photos(self, photos: dict[str, str]) -> None:
    """Write the paths of photos by name."""
    _write_json(self.folder / PHOTOS, photos)

  def write(self, config: delf_config_pb2.DelfConfig | None = None) -> None:
    """Write the settings, and the extraction's configuration if known."""
    if config is not None:
      text = text_format.MessageToString(config)
      files.write_bytes(self.folder / CONFIG, text.encode())
    record = {"version": VERSION} | dataclasses.asdict(self.settings)
    _write_json(self.folder / RECORD, record)


def image_of(entry: str) -> str:
  """Return the name of the image that a region is of."""
  return entry.rpartition("_")[0]


def is_whole(entry: str) -> bool:
  """Return whether a region is the whole image."""
  return entry.endswith(_WHOLE)


@contextlib.contextmanager
def changing(folder: str | os.PathLike) -> Iterator[None]:
  """Keep other runs from changing a collection, or making one.

  What a killed run left unfinished is removed. The folder is made if need be,
  and goes again if it stays empty.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_folder(folder):
    for path in files.find_leftovers(folder, _STEMS):
      path.unlink(missing_ok=True)
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        folder.rmdir()


def exists(folder: str | os.PathLike) -> bool:
  """Return whether there is a collection in a folder."""
  return (pathlib.Path(folder) / RECORD).exists()


def open_folder(folder: str | os.PathLike) -> Collection:
  """Open a collection that `delf index` has made."""
  folder = pathlib.Path(folder)
  if not folder.exists():
    raise FileNotFoundError(f"{folder}: expected an index, found none")
  if not exists(folder):
    raise errors.InputError(
      "a folder that `delf index` has made", f"none of its {RECORD}", folder
    )
  path = folder / RECORD
  record = _read_json(path, "a collection's settings")
  version = record.pop("version", None)
  if not isinstance(version, int):
    raise errors.InputError("a version number", repr(version), path)
  if version > VERSION:
    raise errors.InputError(
      f"version {VERSION} or older",
      f"version {version}, written by a newer delf",
      path,
    )
  try:
    return Collection(folder, Settings(**record))
  except TypeError:
    raise errors.InputError(
      "a collection's settings", f"{sorted(record)}", path
    ) from None


def open_or_make(
  wanted: Collection, config: delf_config_pb2.DelfConfig | None, options: Any
) -> None:
  """Make a collection, or check that an existing one was made alike.

  Args:
    config: Configuration of extraction, or None where it is not known.
    options: building.BuildOptions: aggregation, codebook and whitening.

  Raises:
    InputError: If the existing one was made with something else, or the wanted
      one has nothing to be searched by.
  """
  folder, settings = wanted.folder, wanted.settings
  new = not exists(folder)
  if not new:
    existing = open_folder(folder).settings
    for field in dataclasses.fields(existing):
      old, value = getattr(existing, field.name), getattr(settings, field.name)
      if old != value:
        raise errors.InputError(
          f"what the index was made with, {field.name} {old!r}",
          f"{value!r}",
          folder,
        )
  if options.aggregation or options.codebook:
    _add_codebook(wanted, _aggregation(options.aggregation, options.codebook))
  if options.whitening:
    _add_whitening(wanted, options.whitening, new)
  if not (settings.has_global or wanted.has_codebook):
    raise errors.InputError(
      "global descriptors, or --codebook to search by local features",
      "local features alone",
      folder,
    )
  if new:
    wanted.write(config)
  elif config is not None:
    _check_config(wanted, config)


def _check_config(wanted, config):
  """Gives a collection its configuration, or checks that it has that one."""
  known = wanted.delf_config()
  if known is None:
    wanted.write(config)
  elif known != config:
    names = {field.name for field, _ in known.ListFields()}
    names |= {field.name for field, _ in config.ListFields()}
    differ = [n for n in names if getattr(known, n) != getattr(config, n)]
    raise errors.InputError(
      "the model and settings that the index was made with",
      f"another {', '.join(sorted(differ))}",
      wanted.folder,
    )


def _aggregation(path, codebook):
  """Returns the requested AggregationConfig, if an inverted index takes it."""
  config = aggregation_config_pb2.AggregationConfig()
  if path:
    config = configs.read_aggregation_config(path)
    is_vlad = config.aggregation_type == config.VLAD
    if is_vlad or config.use_regional_aggregation:
      raise errors.InputError(
        "aggregation_type ASMK or ASMK_STAR, not regional", "another", path
      )
  if codebook:
    config.codebook_path = codebook
    config.codebook_size, config.feature_dimensionality = (
      visual_words.read_codebook(codebook).shape
    )
  return config


def _add_codebook(wanted, config):
  """Gives a collection its codebook, or checks that it has that one."""
  if not wanted.settings.local_extension:
    raise errors.InputError(
      "local features, which a codebook is for", "none", wanted.folder
    )
  codebook = visual_words.read_codebook(
    config.codebook_path, config.codebook_size, config.feature_dimensionality
  )
  if not wanted.has_codebook:
    visual_words.write_codebook(wanted.folder / CODEBOOK, codebook)
    own = type(config)()
    own.CopyFrom(config)
    own.codebook_path = CODEBOOK
    text = text_format.MessageToString(own)
    files.write_bytes(wanted.folder / AGGREGATION, text.encode())
    return
  if not wanted.has_words(config, codebook):
    raise errors.InputError(
      "the codebook and aggregation that the index was made with",
      "another",
      wanted.folder,
    )


def _add_whitening(wanted, path, new):
  """Gives a new collection its whitening; checks that another has that one."""
  whitening = whiten.read_whitening(path)
  if not wanted.settings.has_global:
    raise errors.InputError(
      "global descriptors, which a whitening is for", "none", wanted.folder
    )
  if new:
    whiten.write_whitening(wanted.folder / WHITENING, *whitening)
  elif not all(
    map(np.array_equal, wanted.whitening() or (None, None), whitening)
  ):
    raise errors.InputError(
      "the whitening that the index was made with", "another", path
    )


def agree_on_regions(
  wanted: Collection, regions: RegionSettings | None, device: str | None = None
) -> RegionSettings | None:
  """Give a new collection its regions, or check and return existing ones.

  Args:
    wanted: Not written yet where it is new.
    regions: None for those that it has.
    device: That a detector is tried on.

  Raises:
    InputError: If an existing one has others, or the detector of a new one does
      not load; nothing is written then.
  """
  known, path = wanted.regions(), wanted.folder / REGIONS
  if exists(wanted.folder):
    if regions not in (None, known):
      raise errors.InputError(
        "the regions that the index was made with"
        f" ({known or 'none'}), or another index",
        f"{regions}",
        wanted.folder,
      )
    return known
  if regions is not None:
    # What is recorded is kept for good, so that it has to be a detector.
    from delf.inference import detector

    detector.load(regions.detector, device)
    text = json.dumps(dataclasses.asdict(regions), indent=1) + "\n"
    files.write_bytes(path, text.encode())
  elif known is not None:
    path.unlink()  # Of a run that was ended at its start.
  return regions


def _read_json(path, expected):
  try:
    text = files.read_bytes(path).decode("utf-8", "surrogateescape")
    content = json.loads(text)
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict):
    raise errors.InputError(expected, "something else", path)
  return content


def _write_json(path, content):
  text = json.dumps(content, indent=1, ensure_ascii=False)
  # What is no UTF-8 in a file's name stays as it is.
  files.write_bytes(path, f"{text}\n".encode("utf-8", "surrogateescape"))
