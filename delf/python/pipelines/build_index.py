"""From photos, or features that are there, to a collection to be searched."""

import dataclasses
import os

from delf.python import config_io, errors, files
from delf.python.pipelines import (
  collection,
  collection_regions,
  extract,
  feature_folder,
  image_names,
  indexing,
  open_to_change,
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
    regions: collection_regions.RegionSettings, or None: images are indexed
      whole, but for an index that has regions.
    photos: Folder of the photos of features that are there, for pictures.
    max_size: Longer side that photos are scaled down to, or None.
    workers: Threads that decode.
    device: Device that extracts, or None for the best.
    apply_rotation: Whether images are turned as their EXIF orientation says.
    one_core_each: As of `extract_regions.RegionOptions`.
  """

  model: str | None = None
  config: str | None = None
  codebook: str | None = None
  aggregation: str | None = None
  whitening: str | None = None
  regions: collection_regions.RegionSettings | None = None
  photos: str | None = None
  max_size: int | None = None
  workers: int = 1
  device: str | None = None
  apply_rotation: bool = False
  one_core_each: bool = False


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
  if options.photos:
    raise errors.InputError(
      "a folder of feature files with --photos", "photos", options.photos
    )
  with collection.changing(folder):
    return _build_photos(found, images, names, config, options, say)


def _build_photos(found, images, names, config, options, say):
  regions = collection_regions.agree(found, options.regions, options.device)
  found = open_to_change.open_or_make(found, config, options)
  names = _add_photos(found, names, images)
  how = {
    "names": names,
    "workers": options.workers,
    "device": options.device,
    "apply_rotation": options.apply_rotation,
  }
  if regions is None:
    extraction = extract.extract_and_say(
      images, config, found.features, say, **how
    )
  else:
    how["one_core_each"] = options.one_core_each
    extraction = collection_regions.extract(
      found, regions, images, config, say, **how
    )
  if extraction.interrupted:
    raise KeyboardInterrupt
  if regions is not None:
    return _index(found, extraction.files, extraction, say, names)
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
  if options.regions:
    raise errors.InputError(
      "photos, of which regions are extracted", "a folder of features", source
    )
  config = None
  if options.model or options.config:
    config = settings.choose(options.model, options.config)
  photos = _by_name(options.photos) if options.photos else {}
  known = [name for name in names if name in photos]
  with collection.changing(folder):
    found = open_to_change.open_or_make(found, config, options)
    if known:
      _add_photos(found, known, [photos[name] for name in known])
    return _index(found, names, None, say)


def _index(found, names, extraction, say, regions_of=()):
  report = indexing.add_features(found, names, extraction, regions_of)
  for failure in report.failed:
    say(str(failure))
  return report


def _delf_config(folder, options):
  """Returns the DelfConfig asked for, else that of the collection."""
  config = None
  if not (options.model or options.config) and collection.exists(folder):
    config = collection.open_folder(folder).delf_config()
  if config is None:
    config = settings.choose(options.model, options.config)
  if options.max_size:
    config.max_image_size = options.max_size
  config_io.check_delf_config(config, options.config)
  return config


def _add_photos(found, names, images):
  """Records the photos, and refuses another photo under a known name.

  Returns:
    list of names: a photo that is known keeps its name, whatever it would be
    called among those of this run.
  """
  photos = found.photos()
  known = {path: name for name, path in photos.items()}
  paths = list(map(_absolute, images))
  names = [known.get(*pair) for pair in zip(paths, names, strict=True)]
  new = {}
  for name, path in zip(names, paths, strict=True):
    other = new.get(name) or photos.get(name, path)
    if other != path and (name in new or _is_another(other, path)):
      raise errors.InputError(
        "a name of its own for each photo (folders that are named in one run"
        " become part of it)",
        f"{name!r} for {path} and {other}",
        found.folder,
      )
    new[name] = path
  if photos | new != photos:
    found.write_photos(photos | new)
  return names


def _is_another(other, path):
  """Returns whether a photo is there, and not the one of another path."""
  try:
    return not os.path.samefile(other, path)
  except OSError:
    return os.path.exists(other)


def _absolute(path):
  return path if files.is_remote(path) else os.path.abspath(path)


def _by_name(folder):
  images, names = image_names.find([folder])
  return dict(zip(names, images, strict=True))
