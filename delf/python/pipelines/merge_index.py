"""Taking one collection into another."""

import filecmp
import os
import shutil

import numpy as np

from delf.python import errors, files, progress
from delf.python.pipelines import (
  collection,
  collection_regions,
  index_parts,
)


def merge(folder, other_folder):
  """Takes all images of another collection into this one.

  Their features are copied, unless both collections use one folder of them. A
  run that was killed can be repeated.

  Args:
    folder: Folder of the collection that grows.
    other_folder: Folder of the collection that is taken in; it stays as it is.

  Raises:
    InputError: If the two were made with other settings, or some image is in
      both.
  """
  found = collection.open_folder(folder)
  other = collection.open_folder(other_folder)
  if os.path.samefile(folder, other_folder):
    raise errors.InputError("another index", "the same", other_folder)
  with collection.changing(folder):
    _merge(found, other)


def _merge(found, other):
  _check_settings(found, other)
  pairs = list(
    zip(index_parts.parts(found), index_parts.parts(other), strict=True)
  )
  for part, theirs in pairs:
    _check_names(part, theirs)
  names = set().union(*(theirs.index.names for _, theirs in pairs))
  if os.path.realpath(found.features) != os.path.realpath(other.features):
    _copy_features(found, other, sorted(names))
  found.write_photos(found.photos() | other.photos())
  for part, theirs in pairs:
    part.merge(theirs)
    part.save()


def _check_settings(found, other):
  """Raises InputError unless both hold the same kind of features."""
  ours, theirs = found.settings, other.settings
  kinds = [
    (s.local_extension, s.has_global, s.apply_rotation) for s in (ours, theirs)
  ]
  configs = [c.delf_config() for c in (found, other)]
  words = [c.has_codebook for c in (found, other)]
  same = kinds[0] == kinds[1] and configs[0] == configs[1]
  regions = [collection_regions.read(c) for c in (found, other)]
  same = same and regions[0] == regions[1]
  whitenings = [c.whitening() or (None, None) for c in (found, other)]
  same = same and all(map(np.array_equal, *whitenings))
  if same and words == [True, True]:
    same = _same_words(found, other)
  if not same or words[0] != words[1]:
    raise errors.InputError(
      "an index made with the same model, settings and codebook",
      "another",
      other.folder,
    )


def _same_words(found, other):
  from delf.python import codebook_io

  configs = [c.aggregation_config() for c in (found, other)]
  codebooks = [codebook_io.read_codebook(c.codebook_path) for c in configs]
  for config in configs:
    config.codebook_path = ""
  return configs[0] == configs[1] and np.array_equal(*codebooks)


def _check_names(part, theirs):
  ours = set(part.index.names)
  both = [name for name in theirs.index.names if name in ours]
  # All of them: taken in by a run that was killed before the other index.
  if both and len(both) < len(theirs.index.names):
    raise errors.InputError(
      "other names than those of the index",
      f"{both[0]!r}, which is in both ({len(both)} images)",
      theirs.path,
    )


def _copy_features(found, other, names):
  extensions = (other.settings.local_extension, files.DELG_GLOBAL)
  copies = [
    (other.feature_path(name, extension), found.feature_path(name, extension))
    for name in names
    for extension in filter(None, extensions)
  ]
  for name in set(collection_regions.images_of(found, names)):
    boxes = f"{collection_regions.BOXES}/{name}{files.BOXES}"
    copies.append((other.folder / boxes, found.folder / boxes))
  copies = [(source, path) for source, path in copies if source.exists()]
  if found.settings.features != collection.FEATURES:
    _check_others(copies)
  for source, path in progress.track(copies, "copying features"):
    with files.atomic_path(path) as temporary:
      shutil.copyfile(source, temporary)


def _check_others(copies):
  """Raises InputError if a file of the user's own would be lost."""
  for source, path in copies:
    if path.exists() and not filecmp.cmp(source, path, shallow=False):
      raise errors.InputError(
        "features that can be copied", "other ones under that name", path
      )
