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
# Seconds from one save to the next, what a killed run loses at most; as the
# whole index is written, more where that takes long.
_SAVE_INTERVAL = 60
_SAVE_SHARE = 20


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """How a collection is made."""

  model: str | None = None  # Name, or path of a SavedModel.
  config: str | None = None  # `.pbtxt` of extraction; None: that of the model.
  codebook: str | None = None  # Prefix of a checkpoint; None: no visual words.
  # `.pbtxt`; None: ASMK* with the defaults of the original. Its `codebook_path`
  # counts unless `codebook` does.
  aggregation: str | None = None
  whitening: str | None = None  # Of global descriptors.
  regions: collection.RegionSettings | None = None  # None: as the index has.
  photos: str | None = None  # Folder of those of features, for pictures.
  max_size: int | None = None  # Longer side that photos are scaled down to.
  workers: int = 1  # Threads that decode.
  device: str | None = None
  apply_rotation: bool = False  # As the EXIF orientation says.
  one_core_each: bool = False  # Of the extraction of regions.
  extractor: Any = None  # In place of one made from the configuration.


@dataclasses.dataclass(frozen=True)
class IndexReport:
  """Result of making or extending a collection."""

  added: tuple[str, ...]  # Entries that were added to an index, or anew.
  unchanged: int  # Entries that were in it already.
  total: int  # Images in the collection now.
  entries: int  # With regions each is one.
  failed: tuple[engine.Failure, ...]  # Feature files.
  extraction: engine.ImageReport | None
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
    """Exit status of a program that did this."""
    if self.extraction is not None and self.extraction.exit_status:
      return self.extraction.exit_status
    return 1 if self.failed else 0


def build(
  sources: Sequence[str],
  folder: str | os.PathLike,
  options: BuildOptions,
  say: Callable[[str], None],
) -> IndexReport:
  """Make a collection, or add to one that was made with the same options.

  Sources are folders, patterns, lists and images, or one folder of feature
  files. `say` is called with a line for each image that failed.
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
  say: Callable[[str], None],
) -> IndexReport:
  """Make a collection of photos with these names, or add to it."""
  config = _delf_config(folder, options)
  wanted = collection.Collection(
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
    has_regions = _agree_on_regions(wanted, options.regions, options.device)
    _open_or_make(wanted, config, options)
    names = _add_photos(wanted, names, images)
    how = {
      "names": names,
      "workers": options.workers,
      "device": options.device,
      "apply_rotation": options.apply_rotation,
      "say": say,
    }
    if has_regions is None:
      extraction = extract.extract_to_files(
        images, config, wanted.features, extractor=options.extractor, **how
      )
    else:
      extraction = regions.extract_regions(
        images,
        config,
        has_regions.detector,
        wanted.features,
        wanted.folder / collection.BOXES,
        None,
        threshold=has_regions.threshold,
        most=has_regions.most,
        one_core_each=options.one_core_each,
        **how,
      )
    if extraction.interrupted:
      raise KeyboardInterrupt
    if has_regions is not None:
      return add_features(wanted, extraction.files, say, extraction, names)
    failed = {failure.path for failure in extraction.failed}
    names = [n for i, n in zip(images, names, strict=True) if i not in failed]
    return add_features(wanted, names, say, extraction)


def _build_of_features(source, names, extensions, folder, options, say):
  local = [e for e in (files.DELF, files.DELG_LOCAL) if e in extensions]
  if len(local) > 1:
    raise errors.InputError(
      "one kind of local features", " and ".join(local), source
    )
  wanted = collection.Collection(
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
  photos = {}
  if options.photos:
    photos = dict(zip(*reversed(engine.find([options.photos])), strict=True))
  known = [name for name in names if name in photos]
  with collection.changing(folder):
    _open_or_make(wanted, config, options)
    if known:
      _add_photos(wanted, known, [photos[name] for name in known])
    return add_features(wanted, names, say)


def _delf_config(folder, options):
  """Returns the requested DelfConfig, else that of the collection."""
  config = None
  if not (options.model or options.config) and collection.exists(folder):
    config = collection.open_folder(folder).delf_config()
  if config is None:
    config = zoo.choose(options.model, options.config)
  if options.max_size:
    config.max_image_size = options.max_size
  configs.check_delf_config(config, options.config)
  return config


def _open_or_make(wanted, config, options):
  """Makes a collection, or checks that an existing one was made alike.

  The configuration of extraction is None where it is not known.
  """
  folder, settings = wanted.folder, wanted.settings
  new = not collection.exists(folder)
  if not new:
    existing = collection.open_folder(folder).settings
    for field in dataclasses.fields(existing):
      old, value = getattr(existing, field.name), getattr(settings, field.name)
      if old != value:
        raise errors.InputError(
          f"what the index was made with, {field.name} {old!r}",
          f"{value!r}",
          folder,
        )
  if options.aggregation or options.codebook:
    _add_codebook(wanted, options.aggregation, options.codebook)
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
    return
  known = wanted.delf_config()
  if known is None and config is not None:
    wanted.write(config)
  elif config is not None and known != config:
    names = [field.name for field in config.DESCRIPTOR.fields]
    differ = [n for n in names if getattr(known, n) != getattr(config, n)]
    raise errors.InputError(
      "the model and settings that the index was made with",
      f"another {', '.join(sorted(differ))}",
      wanted.folder,
    )


def _add_codebook(wanted, path, prefix):
  """Gives a collection its codebook, or checks that it has that one.

  The path is that of an AggregationConfig, the prefix that of its codebook.
  """
  config = aggregation_config_pb2.AggregationConfig()
  if path:
    config = configs.read_aggregation_config(path)
    is_vlad = config.aggregation_type == config.VLAD
    if is_vlad or config.use_regional_aggregation:
      raise errors.InputError(
        "aggregation_type ASMK or ASMK_STAR, not regional", "another", path
      )
  if prefix:
    config.codebook_path = prefix
    config.codebook_size, config.feature_dimensionality = (
      visual_words.read_codebook(prefix).shape
    )
  if not wanted.settings.local_extension:
    raise errors.InputError(
      "local features, which a codebook is for", "none", wanted.folder
    )
  codebook = visual_words.read_configured(config)
  if not wanted.has_codebook:
    visual_words.write_codebook(wanted.folder / collection.CODEBOOK, codebook)
    config.codebook_path = collection.CODEBOOK
    text = text_format.MessageToString(config)
    files.write_bytes(wanted.folder / collection.AGGREGATION, text.encode())
  elif not wanted.has_words(config, codebook):
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
    whiten.write_whitening(wanted.folder / collection.WHITENING, *whitening)
  elif not all(
    map(np.array_equal, wanted.whitening() or (None, None), whitening)
  ):
    raise errors.InputError(
      "the whitening that the index was made with", "another", path
    )


def _agree_on_regions(wanted, regions, device):
  """Gives a new collection its regions; checks and returns existing ones.

  It is not written yet where it is new. Nothing is written if the detector,
  tried on a device, does not load.
  """
  known, path = wanted.regions(), wanted.folder / collection.REGIONS
  if collection.exists(wanted.folder):
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


def _add_photos(wanted, names, images):
  """Records the photos, and refuses another photo under a known name.

  Returns names: a known photo keeps its name, whatever it would be called among
  those of this run.
  """
  photos = wanted.photos()
  known = {path: name for name, path in photos.items()}
  paths = [
    path if files.is_remote(path) else os.path.abspath(path) for path in images
  ]
  names = [known.get(*pair) for pair in zip(paths, names, strict=True)]
  new = {}
  for name, path in zip(names, paths, strict=True):
    other = new.get(name) or photos.get(name, path)
    if other != path and (name in new or _is_another(other, path)):
      raise errors.InputError(
        "a name of its own for each photo (folders that are named in one run"
        " become part of it)",
        f"{name!r} for {path} and {other}",
        wanted.folder,
      )
    new[name] = path
  if photos | new != photos:
    wanted.sample_photos(photos | new)
  return names


def _is_another(other, path):
  """Returns whether a photo exists, and is not the one of another path."""
  try:
    return not os.path.samefile(other, path)
  except OSError:
    return os.path.exists(other)


def add_features(
  wanted: collection.Collection,
  names: Iterable[str],
  say: Callable[[str], None],
  extraction: engine.ImageReport | None = None,
  regions_of: Iterable[str] = (),
) -> IndexReport:
  """Add images whose features exist to the indexes of a collection.

  Names are added in order. A run that was killed is repeated: it adds what is
  missing, and ends with the index of a run that was not. `regions_of` are
  images that were extracted anew: their regions that are not among the names
  are taken out.
  """
  names = sorted(names)
  kept, redone = set(names), set(regions_of)
  added, failed = {}, {}
  parts = collection.parts(wanted)
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
    total=len(set(wanted.images_of(total))),
    entries=len(total),
    failed=tuple(failed.values()),
    extraction=extraction,
    bytes={
      part.path.name: part.path.stat().st_size
      for part in parts
      if part.path.exists()
    },
  )


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
  """Adds a batch; where one image is refused, the others go in."""
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
  """Remove images, not their files, from the indexes; return how many stay."""
  opened = collection.open_folder(folder)
  with collection.changing(folder):
    parts = collection.parts(opened)
    entries_of = _entries_by_image(opened, parts)
    for name in names:
      if name not in entries_of:
        raise errors.InputError(
          "the name of an image in the index", repr(name), opened.folder
        )
    chosen = [entry for name in names for entry in entries_of[name]]
    for part in parts:
      known = set(part.index.names)
      part.remove([entry for entry in chosen if entry in known])
      part.save()
    return len(_entries_by_image(opened, parts))


def merge(folder: str | os.PathLike, other_folder: str | os.PathLike) -> int:
  """Take all images of another collection into this one; return how many are.

  Their features are copied, unless both collections use one folder of them. A
  run that was killed can be repeated. The other collection stays as it is.
  InputError if it was made with other settings, or some image is in both.
  """
  opened = collection.open_folder(folder)
  other = collection.open_folder(other_folder)
  if os.path.samefile(folder, other_folder):
    raise errors.InputError("another index", "the same", other_folder)
  with collection.changing(folder):
    _check_settings(opened, other)
    parts, others = collection.parts(opened), collection.parts(other)
    pairs = list(zip(parts, others, strict=True))
    for part, theirs in pairs:
      ours = set(part.index.names)
      both = [name for name in theirs.index.names if name in ours]
      # All of them: taken in by a run that was killed before the other index.
      if both and len(both) < len(theirs.index.names):
        raise errors.InputError(
          "other names than those of the index",
          f"{both[0]!r}, which is in both ({len(both)} images)",
          theirs.path,
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
  by_image = {}
  for image, entry in zip(opened.images_of(entries), entries, strict=True):
    by_image.setdefault(image, []).append(entry)
  return by_image


def _check_settings(opened, other):
  """Raises InputError unless both hold the same kind of features."""

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
      "an index made with the same model, settings and codebook",
      "another",
      other.folder,
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
    for source, path in copies:  # A file of the user's own may not be lost.
      if path.exists() and not filecmp.cmp(source, path, shallow=False):
        raise errors.InputError(
          "features that can be copied", "other ones under that name", path
        )
  for source, path in progress.track(copies, "copying features"):
    with files.atomic_path(path) as temporary:
      shutil.copyfile(source, temporary)
