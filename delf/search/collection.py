"""A folder with the features of a collection of images, and its indexes.

In a collection with regions each region of an image is an entry: `<image>_0` is
the whole image, `<image>_1` and so on are its boxes.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from delf.aggregation import aggregate, visual_words
from delf.base import errors, files
from delf.extraction import extract
from delf.formats import configs, features
from delf.indexes import dense, inverted
from delf.protos import aggregation_config_pb2, delf_config_pb2
from delf.python import whiten

VERSION = 1

# Files of a collection. Features are in its own folder, or in a folder of
# feature files of the user.
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

# Indexes of a collection.
GLOBAL, WORDS = "global", "words"

# Their temporary files are leftovers of killed runs.
_STEMS = (GLOBAL, WORDS, f"{GLOBAL}.files", f"{WORDS}.files") + tuple(
  os.path.splitext(name)[0]
  for name in (RECORD, PHOTOS, CONFIG, AGGREGATION, WHITENING)
)

# Ending of the entry of a whole image.
_WHOLE = "_0"


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a collection; `config.pbtxt` has those of the extraction."""

  features: str = FEATURES  # Absolute, or relative to the collection.
  local_extension: str = files.DELF  # "" without local features.
  has_global: bool = True
  apply_rotation: bool = False  # Of the EXIF orientation.


@dataclasses.dataclass(frozen=True)
class RegionSettings:
  """Settings of the regions of a collection."""

  detector: str  # Name or folder.
  threshold: float = 0.1  # Least score of a box.
  most: int | None = None  # Largest number of boxes; None for all.

  def __post_init__(self) -> None:
    if not math.isfinite(self.threshold):
      raise errors.InputError(
        f"the detector's threshold must be finite, not {self.threshold}"
      )
    if os.path.exists(self.detector):
      # The collection may be added to from another folder.
      object.__setattr__(self, "detector", os.path.abspath(self.detector))

  def __str__(self) -> str:
    most = "" if self.most is None else f", at most {self.most}"
    return f"{self.detector} from {self.threshold:g} on{most}"


class Collection:
  """The files of one collection."""

  def __init__(self, folder: str | os.PathLike, settings: Settings):
    """Describe a new collection; `open_folder` opens an existing one."""
    self.folder = pathlib.Path(folder)
    self.settings = settings
    self._temporary: str | None = None

  @property
  def features(self) -> pathlib.Path:
    """Folder of feature files."""
    return self.folder / self.settings.features

  def make_queries(self) -> pathlib.Path:
    """Make and return the folder for features of queries.

    If the collection is read-only the folder is temporary, and removed with
    this object.
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
    """Return the folder, or None if it is read-only."""
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
    """Return the configuration of the extraction, if known."""
    path = self.folder / CONFIG
    return configs.read_delf_config(path) if path.exists() else None

  def aggregation_config(self) -> aggregation_config_pb2.AggregationConfig:
    """Return the aggregation, with the full path of its codebook."""
    config = configs.read_aggregation_config(self.folder / AGGREGATION)
    config.codebook_path = os.fspath(self.folder / config.codebook_path)
    return config

  def has_words(
    self, config: aggregation_config_pb2.AggregationConfig, codebook: np.ndarray
  ) -> bool:
    """Return whether aggregation and codebook are equal to the arguments."""
    own = self.aggregation_config()
    same = np.array_equal(
      visual_words.read_codebook(own.codebook_path), codebook
    )
    own.codebook_path = config.codebook_path
    return same and own == config

  def regions(self) -> RegionSettings | None:
    """Return the settings of regions; None if images are indexed whole."""
    path, expected = self.folder / REGIONS, "settings of regions"
    if not path.exists():
      return None
    try:
      return RegionSettings(**_read_json(path, expected))
    except (ValueError, TypeError):
      raise errors.InputError(f"not {expected}", path=path) from None

  def images_of(self, entries: Iterable[str]) -> list[str]:
    """Return the name of the image of each entry of an index."""
    has_regions = self.regions() is not None
    return list(map(image_of, entries)) if has_regions else list(entries)

  def whole(self, name: str) -> str:
    """Return the name of the entry, and feature file, of a whole image."""
    return f"{name}{_WHOLE}" if (self.folder / REGIONS).exists() else name

  def photos(self) -> dict[str, str]:
    """Return the paths of photos by name, where they are known."""
    path = self.folder / PHOTOS
    return _read_json(path, "photos by name") if path.exists() else {}

  def sample_photos(self, photos: dict[str, str]) -> None:
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
  """Return the name of the image of a region."""
  return entry.rpartition("_")[0]


def is_whole(entry: str) -> bool:
  """Return whether a region is the whole image."""
  return entry.endswith(_WHOLE)


@contextlib.contextmanager
def changing(folder: str | os.PathLike) -> Iterator[None]:
  """Lock a collection for changes, or a new one.

  Leftovers of killed runs are removed. The folder is created if missing, and
  removed again if it stays empty.
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
    raise FileNotFoundError(f"{folder}: no such index")
  if not exists(folder):
    raise errors.InputError(
      f"not an index: `delf index` would have written {RECORD}", path=folder
    )
  path = folder / RECORD
  record = _read_json(path, "a collection's settings")
  version = record.pop("version", None)
  if not isinstance(version, int):
    raise errors.InputError(f"{version!r} is not a version", path=path)
  if version > VERSION:
    raise errors.InputError(
      f"written by a newer delf: version {version}, this one reads up to"
      f" {VERSION}",
      path=path,
    )
  try:
    return Collection(folder, Settings(**record))
  except TypeError:
    raise errors.InputError(
      f"not the settings of an index: {sorted(record)}", path=path
    ) from None


def stamp(opened: Collection) -> tuple:
  """Return a value that changes when the collection does."""
  stamps: list = []
  for name in (RECORD, f"{GLOBAL}.index", f"{WORDS}.index"):
    try:
      status = os.stat(opened.folder / name)
    except FileNotFoundError:
      stamps.append(None)
    else:
      stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
  return tuple(stamps)


class Part:
  """One index of a collection, with a record of its feature files.

  A feature file is up to date in the index while it has the recorded size and
  time; the record is written after the index, so that a killed run adds some
  images again and never omits one.
  """

  name: str  # Of the file, and of the search method.
  extension: str  # Of the feature files.
  _needed: str  # Error of a query without features.
  _kind: Any  # Class of the index.
  _make: Any  # Makes an empty index.

  def __init__(self, opened: Collection):
    """Open the index, or make an empty one."""
    self.path = opened.folder / f"{self.name}.index"
    self._features = os.fspath(opened.features)
    self._stamps_path = opened.folder / f"{self.name}.files.json"
    existing = self.path.exists()
    self.index = self._kind.load(self.path) if existing else self._make()

  @functools.cached_property
  def _stamps(self):
    # Read only to change the index: a search does not need it.
    with contextlib.suppress(errors.InputError):  # All is added again.
      if self._stamps_path.exists():
        return _read_json(self._stamps_path, "times of files")
    return {}

  def source(self, name: str) -> str:
    """Return the path of the feature file of an entry."""
    # No Path, which takes longer than reading the status of the file.
    return f"{self._features}/{name}{self.extension}"

  def read(self, name: str) -> Any:
    """Return the features of an entry in the form of the index."""
    return self.prepare(read_features(self.source(name)))

  def read_query(self, query: Any) -> Any:
    """Return the same for a searching.Query; InputError without features."""
    extracted = query.read(self.extension)
    if not len(extracted):
      raise errors.InputError(self._needed)
    return self.prepare(extracted)

  def prepare(self, extracted: Any) -> Any:
    """Return the content of a feature file in the form of the index."""
    raise NotImplementedError

  def divide(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names to add, and which of them to remove before."""
    known = set(self.index.names)
    todo = [
      name
      for name in names
      if name not in known or self._stamps.get(name) != self._stamp(name)
    ]
    return todo, [name for name in todo if name in known]

  def add(self, names: Sequence[str], entries: Sequence[Any]) -> None:
    """Add entries, as `read` returned them, to the index in memory."""
    stamps = {name: self._stamp(name) for name in names}
    self.index.add(names, entries)
    self._stamps |= stamps

  def remove(self, names: Sequence[str]) -> None:
    """Remove entries from the index in memory."""
    self.index.remove(names)
    for name in names:
      self._stamps.pop(name, None)

  def merge(self, other: "Part") -> None:
    """Add the entries of another collection that are not in this one."""
    known = set(self.index.names)
    new = [name for name in other.index.names if name not in known]
    if new:
      self.index.merge(other.index)
      self._stamps |= {name: self._stamp(name) for name in new}

  def save(self) -> None:
    """Write the index, whole or not at all."""
    self.index.save(self.path)
    files.write_bytes(self._stamps_path, json.dumps(self._stamps).encode())

  def _stamp(self, name):
    try:
      status = os.stat(self.source(name))
    except OSError:
      return None
    return [status.st_size, status.st_mtime_ns]


def read_features(path: str) -> features.LocalFeatures | np.ndarray:
  """Return local features, or a global descriptor: [0] of a tiny image."""
  if path.endswith(files.DELG_GLOBAL):
    return extract.read_global(path)
  return extract.read_local(path)


class GlobalPart(Part):
  """The index of global descriptors."""

  name = GLOBAL
  extension = files.DELG_GLOBAL
  _needed = "the photo is too small for a global descriptor"
  _kind = _make = dense.DenseIndex

  def __init__(self, opened: Collection):
    """Open the index, or make an empty one."""
    self._whitening = opened.whitening()
    super().__init__(opened)

  def prepare(self, extracted: np.ndarray) -> np.ndarray:
    """Return the descriptor, [D] float32, whitened; [0] of a tiny image."""
    if self._whitening is None or not extracted.size:
      return extracted
    white = whiten.apply_whitening(extracted[:, None], *self._whitening)
    return white[:, 0].astype(np.float32)


class WordsPart(Part):
  """The inverted index of aggregated local features (ASMK, ASMK*)."""

  name = WORDS
  _needed = "the photo has no local features"
  _kind = inverted.InvertedIndex

  def __init__(self, opened: Collection):
    """Open the index, or make an empty one."""
    self._config = opened.aggregation_config()
    self.extension = opened.settings.local_extension
    super().__init__(opened)

  def prepare(self, extracted: features.LocalFeatures) -> aggregate.Aggregated:
    """Return the aggregate of the local features."""
    options = aggregate.options(self._config)
    return aggregate.aggregate(self._words, extracted.descriptors, options)

  @functools.cached_property
  def _words(self):
    codebook = visual_words.read_configured(self._config)
    own = visual_words.fingerprint(codebook)
    if self.index.metadata.get(CODEBOOK, own) != own:
      raise errors.InputError(
        "the index was made with another codebook", path=self.path
      )
    return visual_words.Words(codebook)

  def _make(self):
    options = inverted.AsmkOptions.from_config(self._config)
    codebook = visual_words.read_configured(self._config)
    metadata = {CODEBOOK: visual_words.fingerprint(codebook)}
    return inverted.InvertedIndex(options, metadata)


def kinds(opened: Collection) -> dict[str, type[Part]]:
  """Return the classes of the parts of a collection by name."""
  both = {
    GLOBAL: opened.settings.has_global and GlobalPart,
    WORDS: opened.has_codebook and WordsPart,
  }
  return {name: kind for name, kind in both.items() if kind}


def parts(opened: Collection) -> list[Part]:
  """Open the parts of a collection."""
  return [kind(opened) for kind in kinds(opened).values()]


def _read_json(path, expected):
  try:
    text = files.read_bytes(path).decode("utf-8", "surrogateescape")
    content = json.loads(text)
  except (ValueError, RecursionError):
    content = None
  if not isinstance(content, dict):
    raise errors.InputError(f"not {expected}", path=path)
  return content


def _write_json(path, content):
  text = json.dumps(content, indent=1, ensure_ascii=False)
  # Bytes of file names that are not UTF-8 stay as they are.
  files.write_bytes(path, f"{text}\n".encode("utf-8", "surrogateescape"))
