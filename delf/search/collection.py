"""A folder in which a collection of images is kept, to be searched."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import weakref

import numpy as np
from google.protobuf import text_format

from delf.aggregation import visual_words
from delf.base import errors, files
from delf.formats import configs
from delf.protos import aggregation_config_pb2
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
FEATURES = "features"
QUERIES = "queries"

# What a killed run may leave unfinished.
_STEMS = ("global", "words", "global.files", "words.files") + tuple(
  os.path.splitext(name)[0]
  for name in (RECORD, PHOTOS, CONFIG, AGGREGATION, WHITENING)
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a collection was made with; `config.pbtxt` has the extraction.

  Attributes:
    features: Folder of the feature files: absolute, or relative to the
      collection.
    local_extension: Extension of local features, or "" where there are none.
    has_global: Whether images have a global descriptor.
    apply_rotation: Whether images are turned as their EXIF orientation says.
  """

  features: str = FEATURES
  local_extension: str = files.DELF
  has_global: bool = True
  apply_rotation: bool = False


class Collection:
  """The files of one collection."""

  def __init__(self, folder, settings):
    """Creates it from what is known; `open_folder` reads what is there.

    Args:
      folder: Local path.
      settings: Settings.
    """
    self.folder = pathlib.Path(folder)
    self.settings = settings
    self._temporary = None

  @property
  def features(self):
    """pathlib.Path of the folder of feature files."""
    return self.folder / self.settings.features

  @property
  def queries(self):
    """pathlib.Path of the folder where features of queries are kept."""
    return self.folder / QUERIES

  def make_queries(self):
    """Returns the folder for features of queries, made.

    Where nothing can be written in the collection it is a temporary one, which
    goes with this object.
    """
    if self.writable_folder() is None:
      if self._temporary is None:
        self._temporary = tempfile.mkdtemp(prefix="delf_queries_")
        weakref.finalize(self, shutil.rmtree, self._temporary, True)
      return pathlib.Path(self._temporary)
    self.queries.mkdir(exist_ok=True)
    return self.queries

  def writable_folder(self):
    """Returns the folder, or None where nothing can be written in it."""
    return self.folder if os.access(self.folder, os.W_OK) else None

  @property
  def has_codebook(self):
    """Whether local features are aggregated into visual words."""
    return (self.folder / AGGREGATION).exists()

  def feature_path(self, name, extension):
    """Returns the path of a feature file of an image."""
    return self.features / f"{name}{extension}"

  def whitening(self):
    """Returns (mean [D, 1], projection [K, D]) of descriptors, or None."""
    path = self.folder / WHITENING
    return whiten.read_whitening(path) if path.exists() else None

  def delf_config(self):
    """Returns the DelfConfig that queries are extracted with, or None."""
    path = self.folder / CONFIG
    return configs.read_delf_config(path) if path.exists() else None

  def aggregation_config(self):
    """Returns the AggregationConfig, its codebook's path made whole."""
    config = configs.read_aggregation_config(self.folder / AGGREGATION)
    config.codebook_path = os.fspath(self.folder / config.codebook_path)
    return config

  def photos(self):
    """Returns {name: path} of the photos that are known."""
    path = self.folder / PHOTOS
    return _read_json(path, "photos by name") if path.exists() else {}

  def write_photos(self, photos):
    """Writes {name: path} of the photos."""
    _write_json(self.folder / PHOTOS, photos)

  def write(self, config=None):
    """Writes what the collection was made with.

    Args:
      config: delf_config_pb2.DelfConfig, or None where it is not known.
    """
    if config is not None:
      text = text_format.MessageToString(config)
      files.write_bytes(self.folder / CONFIG, text.encode())
    record = {"version": VERSION} | dataclasses.asdict(self.settings)
    _write_json(self.folder / RECORD, record)

  def write_whitening(self, mean, projection):
    """Writes the whitening of global descriptors, as `whitening` gives it."""
    whiten.write_whitening(self.folder / WHITENING, mean, projection)

  def write_aggregation(self, config, codebook):
    """Writes the aggregation's settings, and its codebook beside them.

    Args:
      config: aggregation_config_pb2.AggregationConfig.
      codebook: [K, D] float32.
    """
    from delf.aggregation import visual_words

    visual_words.write_codebook(self.folder / CODEBOOK, codebook)
    own = type(config)()
    own.CopyFrom(config)
    own.codebook_path = CODEBOOK
    text = text_format.MessageToString(own)
    files.write_bytes(self.folder / AGGREGATION, text.encode())


@contextlib.contextmanager
def changing(folder):
  """Keeps other runs from changing a collection, one that is to be too.

  What a killed run left unfinished is removed.

  Args:
    folder: Local path, made if need be; it goes again if it stays empty.

  Yields:
    None.

  Raises:
    InputError: If another run is changing it.
    OSError: If it cannot be made.
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


def exists(folder):
  """Returns whether there is a collection in a folder."""
  return (pathlib.Path(folder) / RECORD).exists()


def open_folder(folder):
  """Opens a collection that is there.

  Args:
    folder: Local path, as `delf index --out` was given.

  Returns:
    Collection.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there is no collection in it, or one of a newer version.
  """
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


def _read_json(path, expected):
  try:
    text = files.read_bytes(path).decode("utf-8", "surrogateescape")
    found = json.loads(text)
  except (ValueError, RecursionError):
    raise errors.InputError(expected, "something else", path) from None
  if not isinstance(found, dict):
    raise errors.InputError(expected, "something else", path)
  return found


def _write_json(path, content):
  text = json.dumps(content, indent=1, ensure_ascii=False)
  # What is no UTF-8 in a file's name stays as it is.
  files.write_bytes(path, f"{text}\n".encode("utf-8", "surrogateescape"))


def add(found, wanted):
  """Gives a collection its codebook, or checks that it has that one.

  Args:
    found: collection.Collection.
    wanted: aggregation_config_pb2.AggregationConfig.

  Raises:
    InputError: If it has no local features, or another codebook.
  """
  if not found.settings.local_extension:
    raise errors.InputError(
      "local features, which a codebook is for", "none", found.folder
    )
  codebook = visual_words.read_codebook(
    wanted.codebook_path, wanted.codebook_size, wanted.feature_dimensionality
  )
  if not found.has_codebook:
    found.write_aggregation(wanted, codebook)
    return
  there = found.aggregation_config()
  same = visual_words.read_codebook(there.codebook_path)
  there.codebook_path = wanted.codebook_path
  if (
    there != wanted or same.shape != codebook.shape or (same != codebook).any()
  ):
    raise errors.InputError(
      "the codebook and aggregation that the index was made with",
      "another",
      found.folder,
    )


def choose(aggregation_path, codebook):
  """Returns the AggregationConfig that is asked for.

  Args:
    aggregation_path: Path of a `.pbtxt`, or None.
    codebook: Prefix of a checkpoint, or None.

  Returns:
    aggregation_config_pb2.AggregationConfig, or None where both are None.

  Raises:
    InputError: If it is not one that an inverted index takes.
  """
  if aggregation_path:
    config = configs.read_aggregation_config(aggregation_path)
    if (
      config.aggregation_type == config.VLAD or config.use_regional_aggregation
    ):
      raise errors.InputError(
        "aggregation_type ASMK or ASMK_STAR, not regional",
        "another",
        aggregation_path,
      )
  elif codebook:
    config = aggregation_config_pb2.AggregationConfig()
  else:
    return None
  if codebook:
    size, dimension = visual_words.read_codebook(codebook).shape
    config.codebook_path = codebook
    config.codebook_size = size
    config.feature_dimensionality = dimension
  return config


def open_or_make(found, config, options):
  """Makes a collection, or checks that the one there is such a one.

  Args:
    found: collection.Collection that is wanted.
    config: delf_config_pb2.DelfConfig, or None where it is not known.
    options: build_index.BuildOptions.

  Returns:
    collection.Collection.

  Raises:
    InputError: If the one there was made with something else, or the one that
      is wanted has nothing to be searched by.
  """
  new = not exists(found.folder)
  if not new:
    there = open_folder(found.folder)
    for field in dataclasses.fields(there.settings):
      old = getattr(there.settings, field.name)
      wanted = getattr(found.settings, field.name)
      if old != wanted:
        raise errors.InputError(
          f"what the index was made with, {field.name} {old!r}",
          f"{wanted!r}",
          found.folder,
        )
  wanted = choose(options.aggregation, options.codebook)
  if wanted is not None:
    add(found, wanted)
  if options.whitening:
    _add_whitening(found, options.whitening, new)
  if not (found.settings.has_global or found.has_codebook):
    raise errors.InputError(
      "global descriptors, or --codebook to search by local features",
      "local features alone",
      found.folder,
    )
  if new:
    found.write(config)
  elif config is not None:
    _check_config(found, config)
  return found


def _check_config(found, config):
  """Gives an index of features its configuration, or compares that it has."""
  there = found.delf_config()
  if there is None:
    found.write(config)
  elif there != config:
    names = {field.name for field, _ in there.ListFields()}
    names |= {field.name for field, _ in config.ListFields()}
    differ = [n for n in names if getattr(there, n) != getattr(config, n)]
    raise errors.InputError(
      "the model and settings that the index was made with",
      f"another {', '.join(sorted(differ))}",
      found.folder,
    )


def _add_whitening(found, path, new):
  """Gives a new collection its whitening; checks that another has that one."""
  wanted = whiten.read_whitening(path)
  if not found.settings.has_global:
    raise errors.InputError(
      "global descriptors, which a whitening is for", "none", found.folder
    )
  if new:
    found.write_whitening(*wanted)
    return
  there = found.whitening() or (None, None)
  if not all(map(np.array_equal, there, wanted)):
    raise errors.InputError(
      "the whitening that the index was made with", "another", path
    )
