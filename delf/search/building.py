"""From photos, or existing features, to a collection that can be searched."""

import dataclasses
import filecmp
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging
from google.protobuf import text_format

from delf.aggregation import visual_words
from delf.base import errors, files, progress
from delf.extraction import engine, extract, regions
from delf.formats import configs
from delf.inference import zoo
from delf.protos import aggregation_config_pb2
from delf.python import whiten
from delf.search import collection

# Images that are read before they are added.
_BATCH = 64
# Seconds between saves, the work that a killed run loses; longer where writing
# the whole index takes long.
_SAVE_INTERVAL = 60
_SAVE_SHARE = 20


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """Options of indexing."""

  model: str | None = None  # Name, or path of a SavedModel.
  config: files.Path | None = None  # `.pbtxt`; None: the model's own.
  codebook: files.Path | None = None  # Prefix; None: no visual words.
  # `.pbtxt`; None: ASMK* with the defaults of the original. `codebook` replaces
  # its `codebook_path`.
  aggregation: files.Path | None = None
  whitening: files.Path | None = None  # Of global descriptors.
  # None: those of an existing index.
  regions: collection.RegionSettings | None = None
  photos: files.Path | None = None  # With features: folder of their photos.
  max_size: int | None = None  # Longer side that photos are scaled down to.
  workers: int = 1  # Threads that decode.
  device: str | None = None
  apply_rotation: bool = False  # Of the EXIF orientation.
  one_core_each: bool = False  # Of the extraction of regions.
  extractor: Any = None  # In place of one made from the configuration.


@dataclasses.dataclass(frozen=True)
class IndexReport:
  """Result of indexing."""

  added: tuple[str, ...]  # Entries that were added or replaced.
  unchanged: int  # Entries that were in it already.
  total: int  # Images in the index now.
  entries: int  # Regions in an index that has them, else images.
  failed: tuple[engine.Failure, ...]  # Photos and feature files.
  extraction: engine.Report | None
  bytes: dict[str, int]  # Of each index file.

  def summary(self) -> str:
    """Return one line for people."""
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
  def exit_status(self) -> int:
    """Exit status of a program with this result."""
    if self.extraction is not None and self.extraction.exit_status:
      return self.extraction.exit_status
    return 1 if self.failed else 0


def build(
  sources: Sequence[str],
  folder: str | os.PathLike,
  options: BuildOptions,
  say: Callable[[str], object],
) -> IndexReport:
  """Make a collection, or add to an existing one with the same settings.

  Sources are folders, patterns, lists and photos, or one folder of feature
  files. `say` is called with a line for each photo that failed.
  """
  features = extract.find_features(sources)
  if features is not None:
    return _build_of_features(sources[0], *features, folder, options, say)
  return build_photos(*engine.find(sources), folder, options, say)


def build_photos(
  images: Sequence[str],
  names: Sequence[str],
  folder: str | os.PathLike,
  options: BuildOptions,
  say: Callable[[str], object],
) -> IndexReport:
  """Make a collection of photos with these names, or add to it."""
  config = _delf_config(folder, options)
  target = collection.Collection(
    folder,
    collection.Settings(
      local_extension=files.DELF if config.use_local_features else "",
      has_global=config.use_global_features,
      apply_rotation=options.apply_rotation,
    ),
  )
  if options.photos:
    raise errors.InputError(
      "--photos is for an index of feature files; these are photos",
      path=options.photos,
    )
  with collection.changing(folder):
    has_regions = _agree_on_regions(target, options.regions, options.device)
    _open_or_make(target, config, options)
    names = _add_photos(target, names, images)
    how: dict[str, Any] = {
      "names": names,
      "workers": options.workers,
      "device": options.device,
      "apply_rotation": options.apply_rotation,
      "say": say,
    }
    if has_regions is None:
      extraction: engine.Report = extract.extract_to_files(
        images, config, target.features, extractor=options.extractor, **how
      )
    else:
      extraction = regions.extract_regions(
        images,
        config,
        has_regions.detector,
        target.features,
        target.folder / collection.BOXES,
        None,
        threshold=has_regions.threshold,
        most=has_regions.most,
        one_core_each=options.one_core_each,
        **how,
      )
    if extraction.interrupted:
      raise KeyboardInterrupt
    if isinstance(extraction, regions.RegionReport):
      return add_features(target, extraction.files, say, extraction, names)
    failed = {failure.path for failure in extraction.failed}
    names = [n for i, n in zip(images, names, strict=True) if i not in failed]
    return add_features(target, names, say, extraction)


def _build_of_features(source, names, extensions, folder, options, say):
  local = [e for e in (files.DELF, files.DELG_LOCAL) if e in extensions]
  if len(local) > 1:
    raise errors.InputError(
      f"two kinds of local features, {' and '.join(local)}: an index has one"
      " kind",
      path=source,
    )
  target = collection.Collection(
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
      "--regions needs photos; this is a folder of features", path=source
    )
  config = None
  if options.model or options.config:
    config = zoo.choose(options.model, options.config)
  photos = {}
  if options.photos:
    photos = dict(zip(*reversed(engine.find([options.photos])), strict=True))
  known = [name for name in names if name in photos]
  with collection.changing(folder):
    _open_or_make(target, config, options)
    if known:
      _add_photos(target, known, [photos[name] for name in known])
    return add_features(target, names, say)


def _delf_config(folder, options):
  """Return the requested DelfConfig, else that of the collection."""
  config = None
  if not (options.model or options.config) and collection.exists(folder):
    config = collection.open_folder(folder).delf_config()
  if config is None:
    config = zoo.choose(options.model, options.config)
  if options.max_size:
    config.max_image_size = options.max_size
  configs.check_delf_config(config, options.config)
  return config


def _open_or_make(target, config, options):
  """Make a collection, or check that an existing one has the same settings.

  The configuration of extraction is None where it is not known.
  """
  folder, settings = target.folder, target.settings
  new = not collection.exists(folder)
  if not new:
    existing = collection.open_folder(folder).settings
    for field in dataclasses.fields(existing):
      old, value = getattr(existing, field.name), getattr(settings, field.name)
      if old != value:
        raise errors.InputError(
          f"the index was made with {field.name} {old!r}, not {value!r}",
          path=folder,
        )
  if options.aggregation or options.codebook:
    _add_codebook(target, options.aggregation, options.codebook)
  if options.whitening:
    _add_whitening(target, options.whitening, new)
  if not (settings.has_global or target.has_codebook):
    raise errors.InputError(
      "there are no global descriptors: name a --codebook to search by local"
      " features",
      path=folder,
    )
  if new:
    target.write(config)
    return
  known = target.delf_config()
  if known is None and config is not None:
    target.write(config)
  elif config is not None and known != config:
    names = [field.name for field in config.DESCRIPTOR.fields]
    differ = [n for n in names if getattr(known, n) != getattr(config, n)]
    raise errors.InputError(
      "the index was made with another model or other settings:"
      f" {', '.join(sorted(differ))}",
      path=target.folder,
    )


def _add_codebook(target, path, prefix):
  """Give a collection its codebook, or check that it has the same one.

  The path is that of an AggregationConfig, the prefix that of its codebook.
  """
  config = aggregation_config_pb2.AggregationConfig()
  if path:
    config = configs.read_aggregation_config(path)
    is_vlad = config.aggregation_type == config.VLAD
    if is_vlad or config.use_regional_aggregation:
      raise errors.InputError(
        "an index needs aggregation_type ASMK or ASMK_STAR, not regional",
        path=path,
      )
  if prefix:
    config.codebook_path = os.fspath(prefix)
    config.codebook_size, config.feature_dimensionality = (
      visual_words.read_codebook(prefix).shape
    )
  if not target.settings.local_extension:
    raise errors.InputError(
      "a codebook needs local features; this index has none", path=target.folder
    )
  codebook = visual_words.read_configured(config)
  if not target.has_codebook:
    visual_words.write_codebook(target.folder / collection.CODEBOOK, codebook)
    config.codebook_path = collection.CODEBOOK
    text = text_format.MessageToString(config)
    files.write_bytes(target.folder / collection.AGGREGATION, text.encode())
  elif not target.has_words(config, codebook):
    raise errors.InputError(
      "the index was made with another codebook or aggregation",
      path=target.folder,
    )


def _add_whitening(target, path, new):
  """Give a new collection its whitening; check that of an existing one."""
  whitening = whiten.read_whitening(path)
  if not target.settings.has_global:
    raise errors.InputError(
      "a whitening needs global descriptors; this index has none",
      path=target.folder,
    )
  if new:
    whiten.write_whitening(target.folder / collection.WHITENING, *whitening)
  elif not all(
    map(np.array_equal, target.whitening() or (None, None), whitening)
  ):
    raise errors.InputError(
      "the index was made with another whitening", path=path
    )


def _agree_on_regions(target, regions, device):
  """Give a new collection its regions; check and return existing ones.

  Nothing is written if the detector cannot be loaded on the device.
  """
  known, path = target.regions(), target.folder / collection.REGIONS
  if collection.exists(target.folder):
    if regions not in (None, known):
      raise errors.InputError(
        f"the index was made with regions of {known or 'no detector'}, not"
        f" {regions}: use another folder",
        path=target.folder,
      )
    return known
  if regions is not None:
    # The record is permanent, so that it has to name a detector.
    from delf.inference import detector

    detector.load(regions.detector, device)
    text = json.dumps(dataclasses.asdict(regions), indent=1) + "\n"
    files.write_bytes(path, text.encode())
  elif known is not None:
    path.unlink()  # Of a run that was killed at its start.
  return regions


def _add_photos(target, names, images):
  """Record the photos, and return their names.

  A known photo keeps its name, whatever its name would be in this run. Another
  photo under a known name is refused.
  """
  photos = target.photos()
  known = {path: name for name, path in photos.items()}
  paths = [
    path if files.is_remote(path) else os.path.abspath(path) for path in images
  ]
  names = [known.get(*pair) for pair in zip(paths, names, strict=True)]
  new: dict[str, str] = {}
  for name, path in zip(names, paths, strict=True):
    other = new.get(name) or photos.get(name, path)
    if other != path and (name in new or _is_another(other, path)):
      raise errors.InputError(
        f"{path} and {other} would both be {name!r}: index their folders in one"
        " run, which makes them part of the names",
        path=target.folder,
      )
    new[name] = path
  if photos | new != photos:
    target.sample_photos(photos | new)
  return names


def _is_another(other, path):
  """Return whether a photo exists, and is not the one of another path."""
  try:
    return not os.path.samefile(other, path)
  except OSError:
    return os.path.exists(other)


def add_features(
  target: collection.Collection,
  names: Iterable[str],
  say: Callable[[str], object],
  extraction: engine.Report | None = None,
  regions_of: Iterable[str] = (),
) -> IndexReport:
  """Add images with existing features to the indexes of a collection.

  Names are added in order. A killed run can be repeated: it adds the missing
  images, and ends with the same index. `regions_of` are images that were
  extracted anew: their regions that are not among the names are removed.
  """
  names = sorted(names)
  kept, redone = set(names), set(regions_of)
  added: dict[str, None] = {}
  failed: dict[tuple[str, str], engine.Failure] = {}
  parts = collection.parts(target)
  for part in parts:
    gone = [
      entry
      for entry in (part.index.names if redone else ())
      if entry not in kept and collection.image_of(entry) in redone
    ]
    _fill(part, names, gone, added, failed)
  for failure in failed.values():
    say(str(failure))
  total = set().union(*(part.index.names for part in parts))
  return IndexReport(
    added=tuple(added),
    unchanged=len(kept - set(added) - {name for _, name in failed}),
    total=len(set(target.images_of(total))),
    entries=len(total),
    failed=(*(extraction.failed if extraction else ()), *failed.values()),
    extraction=extraction,
    bytes={
      part.path.name: part.path.stat().st_size
      for part in parts
      if part.path.exists()
    },
  )


def _fill(part, names, gone, added, failed):
  """Add missing images to one index, with a save at intervals."""
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
      failed[part.name, name] = engine.Failure.of(part.source(name), error)
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
  """Add a batch; where one image is refused, the others are added."""
  if not batch:
    return
  try:
    part.add(list(batch), list(batch.values()))
    added |= dict.fromkeys(batch)
  except errors.InputError as error:
    if len(batch) == 1:
      (name,) = batch
      failed[part.name, name] = engine.Failure.of(part.source(name), error)
      return
    for name, entry in batch.items():
      _add(part, {name: entry}, added, failed)


def remove(folder: str | os.PathLike, names: Iterable[str]) -> int:
  """Remove images, not their files; return the number of those left."""
  opened = collection.open_folder(folder)
  with collection.changing(folder):
    parts = collection.parts(opened)
    entries_of = _entries_by_image(opened, parts)
    for name in names:
      if name not in entries_of:
        raise errors.InputError(
          f"no image of the index is named {name!r}", path=opened.folder
        )
    chosen = [entry for name in names for entry in entries_of[name]]
    for part in parts:
      known = set(part.index.names)
      part.remove([entry for entry in chosen if entry in known])
      part.save()
    return len(_entries_by_image(opened, parts))


def merge(folder: str | os.PathLike, other_folder: str | os.PathLike) -> int:
  """Add all images of another collection; return the number of images.

  Their features are copied, unless both collections use one folder of them. A
  killed run can be repeated. The other collection is not changed. InputError if
  it was made with other settings, or an image is in both.
  """
  opened = collection.open_folder(folder)
  other = collection.open_folder(other_folder)
  if os.path.samefile(folder, other_folder):
    raise errors.InputError(
      "an index cannot be merged with itself", path=other_folder
    )
  with collection.changing(folder):
    _check_settings(opened, other)
    parts, others = collection.parts(opened), collection.parts(other)
    pairs = list(zip(parts, others, strict=True))
    for part, theirs in pairs:
      ours = set(part.index.names)
      both = [name for name in theirs.index.names if name in ours]
      # All of them: added by a run that was killed before the other index.
      if both and len(both) < len(theirs.index.names):
        raise errors.InputError(
          f"{len(both)} images are in both indexes, such as {both[0]!r}",
          path=theirs.path,
        )
    names = set().union(*(theirs.index.names for theirs in others))
    if os.path.realpath(opened.features) != os.path.realpath(other.features):
      _copy_features(opened, other, sorted(names))
    opened.sample_photos(opened.photos() | other.photos())
    for part, theirs in pairs:
      part.merge(theirs)
      part.save()
    return len(_entries_by_image(opened, parts))


def _entries_by_image(opened, parts):
  entries = sorted(set().union(*(part.index.names for part in parts)))
  by_image: dict[str, list[str]] = {}
  for image, entry in zip(opened.images_of(entries), entries, strict=True):
    by_image.setdefault(image, []).append(entry)
  return by_image


def _check_settings(opened, other):
  """Raise InputError unless both have the same settings."""

  def made_with(each):
    settings = dataclasses.replace(each.settings, features="")
    return settings, each.delf_config(), each.has_codebook, each.regions()

  same = made_with(opened) == made_with(other)
  whitenings = [c.whitening() or (None, None) for c in (opened, other)]
  same = same and all(map(np.array_equal, *whitenings))
  if same and opened.has_codebook:
    config = other.aggregation_config()
    codebook = visual_words.read_codebook(config.codebook_path)
    same = opened.has_words(config, codebook)
  if not same:
    raise errors.InputError(
      "the index was made with another model, settings or codebook",
      path=other.folder,
    )


def _copy_features(opened, other, names):
  extensions = (other.settings.local_extension, files.DELG_GLOBAL)
  copies = [
    (other.feature_path(name, extension), opened.feature_path(name, extension))
    for name in names
    for extension in filter(None, extensions)
  ]
  for name in set(opened.images_of(names)):
    boxes = f"{collection.BOXES}/{name}{files.BOXES}"
    copies.append((other.folder / boxes, opened.folder / boxes))
  copies = [(source, path) for source, path in copies if source.exists()]
  if opened.settings.features != collection.FEATURES:
    for source, path in copies:  # Files of the user are not replaced.
      if path.exists() and not filecmp.cmp(source, path, shallow=False):
        raise errors.InputError(
          "the file has other features than the image to be merged", path=path
        )
  for source, path in progress.track(copies, "copying features"):
    with files.atomic_path(path) as temporary:
      shutil.copyfile(source, temporary)
