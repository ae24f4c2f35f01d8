"""From photos, or features that are there, to a collection to be searched."""

import dataclasses
import filecmp
import os
import shutil
import time

import numpy as np
from absl import logging

from delf.base import errors, files, progress
from delf.extraction import engine, extract, feature_files, jobs
from delf.formats import configs
from delf.inference import zoo
from delf.search import collection, collection_regions, index_parts
from delf.search.collection import changing

# Images that are read before they are added.
_BATCH = 64
# Seconds from one save to the next, what a killed run loses at most; as the
# whole index is written, more where that takes long.
_SAVE_INTERVAL = 60
_SAVE_SHARE = 20


@dataclasses.dataclass(frozen=True)
class IndexReport:
  """What became of the images of a collection.

  Attributes:
    added: Names of images that were added to an index, or added anew.
    unchanged: Number of images that were there.
    total: Number of images in the collection now.
    entries: Number of entries of an index: where there are regions, that of
      regions, and so are `added` and `unchanged`.
    failed: extract_report.Failure of each feature file that could not be used.
    extraction: extract_report.ExtractReport, or None where nothing was
      extracted.
    bytes: Size of each index file by its name, in bytes.
  """

  added: tuple[str, ...]
  unchanged: int
  total: int
  entries: int
  failed: tuple[engine.Failure, ...]
  extraction: engine.ExtractReport | None
  bytes: dict[str, int]

  def summary(self):
    """Returns one line for people."""
    sizes = ", ".join(
      f"{name} {size / 2**20:.1f} MB" for name, size in self.bytes.items()
    )
    regions = f", {self.entries} regions" if self.entries != self.total else ""
    return (
      f"{self.total} images{regions} ({len(self.added)} added,"
      f" {self.unchanged} already there, {len(self.failed)} failed):"
      f" {sizes or 'nothing indexed'}"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.extraction is not None and self.extraction.exit_status:
      return self.extraction.exit_status
    return 1 if self.failed else 0


def add_features(collection, names, extraction=None, regions_of=()):
  """Adds images whose features are there to the indexes of a collection.

  Names are added in order. A run that was killed is repeated: it adds what is
  missing, and ends with the index of a run that was not.

  Args:
    collection: collection.Collection.
    names: Names of images: of feature files without extension.
    extraction: extract_report.ExtractReport of the photos, or None.
    regions_of: Names of images, of whose regions those that are not among the
      names are taken out.

  Returns:
    IndexReport.

  Raises:
    InputError: If an index file is not right.
    OSError: If an index cannot be written; the last good one stays.
  """
  names = sorted(names)
  added, failed = {}, {}
  parts = index_parts.parts(collection)
  gone = _Gone(set(regions_of), set(names))
  for part in parts:
    _fill(part, names, gone.among(part.index.names), added, failed)
  total = set().union(*(part.index.names for part in parts))
  return IndexReport(
    added=tuple(added),
    unchanged=len(set(names) - set(added) - {name for _, name in failed}),
    total=len(set(collection_regions.images_of(collection, total))),
    entries=len(total),
    failed=tuple(failed.values()),
    extraction=extraction,
    bytes={
      part.path.name: part.path.stat().st_size
      for part in parts
      if part.path.exists()
    },
  )


def remove(collection, names):
  """Removes images from the indexes; their features and photos stay.

  Args:
    collection: collection.Collection.
    names: Names of images.

  Raises:
    InputError: If there is no image of such a name.
  """
  with changing(collection.folder):
    _remove(collection, names)


def _remove(collection, names):
  parts = index_parts.parts(collection)
  known = {}
  entries = sorted(set().union(*(part.index.names for part in parts)))
  images = collection_regions.images_of(collection, entries)
  for image, entry in zip(images, entries, strict=True):
    known.setdefault(image, []).append(entry)
  for name in names:
    if name not in known:
      raise errors.InputError(
        "the name of an image in the index", repr(name), collection.folder
      )
  chosen = [entry for name in names for entry in known[name]]
  for part in parts:
    there = set(part.index.names)
    part.remove([entry for entry in chosen if entry in there])
    part.save()


class _Gone:
  """Tells regions of images that have been extracted anew, and are no more."""

  def __init__(self, images, there):
    self._images, self._there = images, there

  def among(self, entries):
    if not self._images:
      return []
    return [
      entry
      for entry in entries
      if entry not in self._there
      and collection_regions.image_of(entry) in self._images
    ]


def _fill(part, names, gone, added, failed):
  """Adds to one index what it lacks, saving now and then."""
  todo, changed = part.divide(names)
  if not todo and not gone and part.path.exists():
    return
  part.remove(gone)
  if changed:
    logging.info("%d images have new features.", len(changed))
    part.remove(changed)
  batch, due = {}, time.monotonic() + _SAVE_INTERVAL
  for name in progress.track(todo, f"adding to {part.path.name}"):
    try:
      batch[name] = part.read(name)
    except (errors.InputError, OSError) as error:
      failed[part.name, name] = _failure(part, name, error)
      continue
    if len(batch) >= _BATCH:
      _add(part, batch, added, failed)
      batch = {}
      begin = time.monotonic()
      if begin > due:
        part.save()
        end = time.monotonic()
        due = end + max(_SAVE_INTERVAL, _SAVE_SHARE * (end - begin))
  _add(part, batch, added, failed)
  part.save()


def _add(part, batch, added, failed):
  """Adds a batch; where one image is refused, the others go in."""
  if not batch:
    return
  try:
    part.add(list(batch), list(batch.values()))
    added |= dict.fromkeys(batch)
  except errors.InputError as error:
    if len(batch) == 1:
      (name,) = batch
      failed[part.name, name] = _failure(part, name, error)
      return
    for name, entry in batch.items():
      _add(part, {name: entry}, added, failed)


def _failure(part, name, error):
  path = str(part.source(name))
  reason = errors.one_line(error).removeprefix(f"{path}: ")
  return engine.Failure(path, reason)


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
  features = feature_files.find(sources)
  if features is not None:
    return _build_of_features(sources[0], features, folder, options, say)
  return build_photos(*jobs.find(sources), folder, options, say)


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
  found = collection.open_or_make(found, config, options)
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
    config = zoo.choose(options.model, options.config)
  photos = _by_name(options.photos) if options.photos else {}
  known = [name for name in names if name in photos]
  with collection.changing(folder):
    found = collection.open_or_make(found, config, options)
    if known:
      _add_photos(found, known, [photos[name] for name in known])
    return _index(found, names, None, say)


def _index(found, names, extraction, say, regions_of=()):
  report = add_features(found, names, extraction, regions_of)
  for failure in report.failed:
    say(str(failure))
  return report


def _delf_config(folder, options):
  """Returns the DelfConfig asked for, else that of the collection."""
  config = None
  if not (options.model or options.config) and collection.exists(folder):
    config = collection.open_folder(folder).delf_config()
  if config is None:
    config = zoo.choose(options.model, options.config)
  if options.max_size:
    config.max_image_size = options.max_size
  configs.check_delf_config(config, options.config)
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
  images, names = jobs.find([folder])
  return dict(zip(names, images, strict=True))


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
  from delf.aggregation import visual_words

  configs = [c.aggregation_config() for c in (found, other)]
  codebooks = [visual_words.read_codebook(c.codebook_path) for c in configs]
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
