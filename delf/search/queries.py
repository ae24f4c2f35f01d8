"""Features of the photos that a collection is asked with."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from delf.base import errors, files
from delf.extraction import engine, extract, jobs, output_folder
from delf.formats import features, wire
from delf.search import collection

# (x1, y1, x2, y2) in pixels of a photo.
Box = tuple[float, float, float, float]

# Photos of one run whose features stay in memory: 53 MB of them where each has
# 1000 of 128 values.
_KEPT = 100


@dataclasses.dataclass(frozen=True)
class Query:
  """One photo that a collection is asked with."""

  name: str  # For people.
  photo: str | None  # Path, or None where only features are known.
  # Path of the feature files, without extension; "" before extraction.
  features: str
  box: Box | None = None  # The part that is asked for; None: all of it.
  # What the files hold, where it is in memory.
  extracted: features.ImageFeatures | None = dataclasses.field(
    default=None, repr=False, compare=False
  )

  def path(self, extension: str) -> str:
    """Return the path of a feature file."""
    return self.features + extension

  def local_features(self, extension: str) -> features.LocalFeatures:
    """Return the local features, from their file if need be."""
    if self.extracted is not None:
      return self.extracted.local
    return output_folder.read_local(self.path(extension))

  def global_descriptor(self) -> np.ndarray:
    """Return [D] float32, from its file if need be; [0] of a tiny photo."""
    if self.extracted is not None:
      return self.extracted.global_descriptor
    return output_folder.read_global(self.path(files.DELG_GLOBAL))


def find(sources: Sequence[str], box: Box | None = None) -> list[Query]:
  """Find the photos in folders, patterns, lists and images.

  Args:
    sources: What `jobs.find` takes.
    box: Part of the only photo.
  """
  found = [
    Query(name, path, "", box)
    for path, name in zip(*jobs.find(sources), strict=True)
  ]
  if box is not None and len(found) > 1:
    raise errors.InputError("one photo with a box", f"{len(found)} photos")
  return found


def of_photos(
  opened: collection.Collection,
  photos: Sequence[Query],
  say: Callable[[str], None],
  device: str | None = None,
) -> tuple[list[Query], engine.ImageReport]:
  """Extract the features of photos as those of the collection were.

  They are kept in the collection's folder, so that the next question about a
  photo, and a search that was interrupted, need not extract it again; those of
  the first photos that this run extracts are kept in memory too. Parts of
  photos are extracted at the scale that they have in the whole (DELG).

  Returns:
    Queries of the photos that did not fail, of which `say` is told, and the
    report.

  Raises:
    InputError: If the collection does not say what model it was made with.
  """
  settings, config = opened.settings, opened.delf_config()
  if config is None:
    raise errors.InputError(
      "features of the queries, or an index that was made with --model or"
      " --config",
      "photos, and an index of feature files",
      opened.folder,
    )
  config.use_global_features = settings.has_global
  config.use_local_features = bool(settings.local_extension)
  keys = [_key(query.photo, query.box) for query in photos]
  extracted = {}

  def keep(key, found):
    if len(extracted) < _KEPT:
      extracted[key] = _as_stored(found)

  folder = opened.make_queries()
  # Two runs may ask with one photo.
  with files.lock_folder(folder, wait=True):
    extraction = extract.extract_to_files(
      [query.photo for query in photos],
      config,
      folder,
      say=say,
      names=keys,
      crops=[q.box and jobs.Crop(q.box, scale_limits=True) for q in photos],
      device=device,
      apply_rotation=settings.apply_rotation,
      local_extension=settings.local_extension or files.DELF,
      on_written=keep,
    )
  if extraction.interrupted:
    raise KeyboardInterrupt
  failed = {failure.path for failure in extraction.failed}
  return [
    dataclasses.replace(
      query, features=os.fspath(folder / key), extracted=extracted.get(key)
    )
    for query, key in zip(photos, keys, strict=True)
    if query.photo not in failed
  ], extraction


def _as_stored(found):
  """Returns features bit by bit as they would be read from their files."""
  local, descriptor = found.local, found.global_descriptor
  if local is not None and not len(local):
    local = features.LocalFeatures.empty()
  elif local is not None:
    arrays = dataclasses.asdict(local)
    local = features.LocalFeatures(
      **{name: wire.to_float32(array) for name, array in arrays.items()}
    )
  return features.ImageFeatures(
    local, wire.to_float32([] if descriptor is None else descriptor)
  )


def of_features(
  folder: str | os.PathLike, names: Sequence[str] | None = None
) -> list[Query]:
  """Take existing feature files of these names, or all in the folder."""
  folder = pathlib.Path(folder)
  if names is None:
    extensions = (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
    names = sorted(
      {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("[!.]*")
        if path.suffix in extensions
      }
    )
  if not names:
    raise errors.InputError("feature files", "none", folder)
  return [Query(name, None, os.fspath(folder / name)) for name in names]


def _key(path, box):
  """Returns the name under which the features of a photo are kept."""
  stem = os.path.splitext(os.path.basename(path))[0]
  full = path if files.is_remote(path) else os.path.realpath(path)
  part = full if box is None else f"{full} {[float(edge) for edge in box]}"
  return f"{stem}-{hashlib.sha256(os.fsencode(part)).hexdigest()[:12]}"
