"""From photos, or features that are there, to a collection to be searched."""

import dataclasses
import os

import numpy as np

from delf.python import config_io, errors, files, whiten
from delf.python.pipelines import (
  collection,
  collection_words,
  extract,
  feature_folder,
  image_names,
  indexing,
  settings,
)


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """How a collection is made.

  Attributes:
    model: Name of a known model, or path of a SavedModel, or None.
    config: Path of a `.pbtxt` of extraction, or None for that of the model.
    codebook: Prefix of a codebook's checkpoint, or None: no visual words.
    aggregation: Path of a `.pbtxt` of aggregation, or None: ASMK* with the
      defaults of the original. Its `codebook_path` counts unless `codebook`
      does.
    whitening: Path of a whitening of global descriptors (`delf fit whitening`),
      or None.
    photos: Folder of the photos of features that are there, for pictures.
    max_size: Longer side that photos are scaled down to, or None.
    workers: Threads that decode.
    device: Device that extracts, or None for the best.
    apply_rotation: Whether images are turned as their EXIF orientation says.
  """

  model: str | None = None
  config: str | None = None
  codebook: str | None = None
  aggregation: str | None = None
  whitening: str | None = None
  photos: str | None = None
  max_size: int | None = None
  workers: int = 1
  device: str | None = None
  apply_rotation: bool = False


def build(sources, folder, options, say):
  """Makes a collection, or adds to one.

  Args:
    sources: Folders, patterns, lists and images, or one folder of feature
      files.
    folder: Folder of the collection.
    options: BuildOptions.
    say: Function of a line: called for each image that failed.

  Returns:
    indexing.IndexReport.

  Raises:
    InputError: If the sources are not right, or the collection was made with
      other settings.
  """
  features = feature_folder.find(sources)
  if features is not None:
    return _build_of_features(sources[0], features, folder, options, say)
  return build_photos(*image_names.find(sources), folder, options, say)


def build_photos(images, names, folder, options, say):
  """Makes a collection of photos, or adds to one.

  Args:
    images: Paths of photos.
    names: Name of each in the collection.
    folder: Folder of the collection.
    options: BuildOptions.
    say: Function of a line: called for each image that failed.

  Returns:
    indexing.IndexReport.

  Raises:
    InputError: If the collection was made with other settings, or has another
      photo of one of the names.
  """
  config = _delf_config(folder, options)
  found = collection.Collection(
    folder,
    collection.Settings(
      local_extension=files.DELF if config.use_local_features else "",
      has_global=config.use_global_features,
      apply_rotation=options.apply_rotation,
    ),
  )
  found = _open_or_make(found, config, options)
  _add_photos(found, names, images)
  extraction = extract.extract_and_say(
    images,
    config,
    found.features,
    say,
    names=names,
    workers=options.workers,
    device=options.device,
    apply_rotation=options.apply_rotation,
  )
  if extraction.interrupted:
    raise KeyboardInterrupt
  failed = {failure.path for failure in extraction.failed}
  names = [n for i, n in zip(images, names, strict=True) if i not in failed]
  return _index(found, names, extraction, say)


def _build_of_features(source, features, folder, options, say):
  names, extensions = features
  local = [e for e in (files.DELF, files.DELG_LOCAL) if e in extensions]
  if len(local) > 1:
    raise errors.InputError(
      "one kind of local features", " and ".join(local), source
    )
  found = collection.Collection(
    folder,
    collection.Settings(
      features=os.path.abspath(source),
      local_extension=local[0] if local else "",
      has_global=files.DELG_GLOBAL in extensions,
      apply_rotation=options.apply_rotation,
    ),
  )
  config = None
  if options.model or options.config:
    config = settings.choose(options.model, options.config)
  found = _open_or_make(found, config, options)
  if options.photos:
    photos = _by_name(options.photos)
    known = [name for name in names if name in photos]
    _add_photos(found, known, [photos[name] for name in known])
  return _index(found, names, None, say)


def _index(found, names, extraction, say):
  report = indexing.add_features(found, names, extraction)
  for failure in report.failed:
    say(str(failure))
  return report


def _delf_config(folder, options):
  """Returns the DelfConfig asked for, else that of the collection."""
  chosen = options.model or options.config
  if not chosen and collection.exists(folder):
    config = collection.open_folder(folder).delf_config()
    if config is not None:
      return config
  config = settings.choose(options.model, options.config)
  if options.max_size:
    config.max_image_size = options.max_size
  config_io.check_delf_config(config, options.config)
  return config


def _open_or_make(found, config, options):
  """Returns the collection, after checking that it is as the one there."""
  new = not collection.exists(found.folder)
  if not new:
    there = collection.open_folder(found.folder)
    for field in dataclasses.fields(there.settings):
      old = getattr(there.settings, field.name)
      wanted = getattr(found.settings, field.name)
      if old != wanted:
        raise errors.InputError(
          f"what the index was made with, {field.name} {old!r}",
          f"{wanted!r}",
          found.folder,
        )
  wanted = collection_words.choose(options.aggregation, options.codebook)
  if wanted is not None:
    collection_words.add(found, wanted)
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
  return found


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


def _add_photos(found, names, images):
  """Records the photos, and refuses another photo under a known name."""
  photos = found.photos()
  new = dict(zip(names, map(_absolute, images), strict=True))
  for name, path in new.items():
    if photos.get(name, path) != path and os.path.exists(photos[name]):
      raise errors.InputError(
        "a name of its own for each photo",
        f"{name!r} for {path} and, in the index, {photos[name]}",
        found.folder,
      )
  if photos | new != photos:
    found.write_photos(photos | new)


def _absolute(path):
  return path if files.is_remote(path) else os.path.abspath(path)


def _by_name(folder):
  images, names = image_names.find([folder])
  return dict(zip(names, images, strict=True))
