"""Features of the photos that a collection is asked with."""

import dataclasses
import hashlib
import os
import pathlib

from delf.base import errors, files
from delf.extraction import extract, feature_files, jobs


@dataclasses.dataclass(frozen=True)
class Query:
  """One photo that a collection is asked with.

  Attributes:
    name: Name for people.
    photo: Path of the photo, or None where only features are known.
    features: Path of the feature files, without extension.
    box: (x1, y1, x2, y2) in pixels of the part that is asked for, or None for
      the whole photo.
  """

  name: str
  photo: str | None
  features: str
  box: tuple[float, float, float, float] | None = None

  def global_descriptor(self):
    """Returns [D] float32; [0] of a photo that is too small."""
    return feature_files.read_global(self.features + files.DELG_GLOBAL)

  def local_path(self, extension):
    """Returns the path of the local features."""
    return self.features + extension


@dataclasses.dataclass(frozen=True)
class Photos:
  """Photos to ask with; the lists are of one length.

  Attributes:
    paths: Paths.
    names: Names for people.
    boxes: (x1, y1, x2, y2) in pixels of the part of each that is asked for, or
      None for all of it.
  """

  paths: list
  names: list
  boxes: list


def find(sources, box=None):
  """Finds the photos that a user asks with.

  Args:
    sources: Folders, patterns, lists and images.
    box: (x1, y1, x2, y2) in pixels of the part of the only photo, or None.

  Returns:
    Photos.

  Raises:
    FileNotFoundError: If a source is not there.
    InputError: If there is no image in a source, or a box for several.
  """
  paths, names = jobs.find(sources)
  if box is not None and len(paths) > 1:
    raise errors.InputError("one photo with a box", f"{len(paths)} photos")
  return Photos(paths, names, [box] * len(paths))


def of_photos(found, photos, say, device=None):
  """Extracts the features of photos as those of the collection were.

  They are kept in the collection's folder, so that the next question about a
  photo, and a search that was interrupted, need not extract it again. Parts of
  photos are extracted at the scale that they have in the whole (DELG).

  Args:
    found: collection.Collection.
    photos: Photos.
    say: Function of a line: called for each photo that failed.
    device: Device that extracts, or None for the best.

  Returns:
    list of Query, and the extract_report.ExtractReport.

  Raises:
    InputError: If the collection does not say what model it was made with.
  """
  config = found.delf_config()
  if config is None:
    raise errors.InputError(
      "features of the queries, or an index that was made with --model or"
      " --config",
      "photos, and an index of feature files",
      found.folder,
    )
  config.use_global_features = found.settings.has_global
  config.use_local_features = bool(found.settings.local_extension)
  keys = list(map(_key, photos.paths, photos.boxes))
  folder = found.make_queries()
  # Two runs may ask with one photo.
  with files.lock_folder(folder, wait=True):
    extraction = _extract(found, photos, keys, folder, config, say, device)
  failed = {failure.path for failure in extraction.failed}
  rows = zip(photos.names, photos.paths, keys, photos.boxes, strict=True)
  return [
    Query(name, path, os.fspath(folder / key), box)
    for name, path, key, box in rows
    if path not in failed
  ], extraction


def _extract(found, photos, keys, folder, config, say, device):
  extraction = extract.extract_and_say(
    photos.paths,
    config,
    folder,
    say,
    names=keys,
    crops=[box and jobs.Crop(box, scale_limits=True) for box in photos.boxes],
    device=device,
    apply_rotation=found.settings.apply_rotation,
    local_extension=found.settings.local_extension or files.DELF,
  )
  if extraction.interrupted:
    raise KeyboardInterrupt
  return extraction


def of_features(folder, names=None, photos=None):
  """Takes features that are there.

  Args:
    folder: Folder of feature files.
    names: Their names, without extension, or None for all that are there.
    photos: dict of name to path of the photo, or None.

  Returns:
    list of Query.

  Raises:
    InputError: If the folder has no features.
  """
  folder = pathlib.Path(folder)
  if names is None:
    extensions = (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
    names = sorted(
      {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*")
        if path.suffix in extensions and not path.name.startswith(".")
      }
    )
  if not names:
    raise errors.InputError("feature files", "none", folder)
  photos = photos or {}
  return [
    Query(name, photos.get(name), os.fspath(folder / name)) for name in names
  ]


def _key(path, box):
  """Returns the name under which the features of a photo are kept."""
  stem = os.path.splitext(os.path.basename(path))[0]
  full = path if files.is_remote(path) else os.path.realpath(path)
  part = full if box is None else f"{full} {[float(edge) for edge in box]}"
  return f"{stem}-{hashlib.sha256(os.fsencode(part)).hexdigest()[:12]}"
