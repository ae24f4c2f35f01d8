"""Features of many images: folders of output files, runs, reading them."""

import dataclasses
import hashlib
import os
import pathlib
import typing
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from google.protobuf import text_format

import delf
from delf.base import arrays, errors, files, manifest, progress
from delf.extraction import engine
from delf.formats import features
from delf.inference import zoo
from delf.protos import delf_config_pb2
from delf.python import datum_io, feature_io

# A line per finished image: its name, the size of the photo, and the size of
# each output file by extension, in bytes; of a part of a photo also which.
# Paths and times are not in it, as data sets are moved.
PHOTOS = "extraction_images.jsonl"

# What the feature files beside it were made with, for each head.
RECORD = "extraction.json"
_NAMED = 5  # Missing files that an error names.


class PhotoRecord:
  """Journal of the photos that the files in a folder are of."""

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    self._journal = manifest.Journal(self._folder / PHOTOS)
    self._sizes, self._crops, self._files = {}, {}, {}
    for name, size, crop, sizes in self._journal.read(
      lambda e: (e["name"], e["bytes"], e.get("crop"), dict(e["files"]))
    ):
      # The last line of a name counts, and of its files those of earlier lines
      # too: heads may be extracted apart.
      self._sizes[name], self._crops[name] = size, crop
      self._files[name] = self._files.get(name, {}) | sizes

  def has(self, job: engine.Job) -> bool:
    """Return whether a photo of this name was recorded."""
    return job.name in self._sizes

  def has_changed(self, job: engine.Job) -> bool:
    """Return whether it is another photo, or part of it, than recorded."""
    if self.has(job) and self._crops.get(job.name) != _crop_entry(job):
      return True
    size = self._sizes.get(job.name)
    return None not in (size, job.size) and size != job.size

  def is_whole(self, job: engine.Job, path: pathlib.Path) -> bool:
    """Return whether an output file has the size that was recorded."""
    size = self._files.get(job.name, {}).get(path.suffix)
    return size is not None and path.exists() and path.stat().st_size == size

  def box(self, name: str) -> tuple | None:
    """Return (x1, y1, x2, y2) in pixels of a part, None for a whole photo."""
    crop = self._crops.get(name)
    return None if crop is None else tuple(crop["box"])

  def add(self, job: engine.Job, paths: list[pathlib.Path]) -> None:
    """Record a photo whose files are written."""
    sizes = {path.suffix: path.stat().st_size for path in paths}
    entry = {"name": job.name, "bytes": job.size, "files": sizes}
    if job.crop is not None:
      entry["crop"] = _crop_entry(job)
    self._journal.add(entry)

  def remove_regions(self, image: str, number: int) -> None:
    """Remove recorded files of the regions of an image from a number on."""
    while (name := engine.region_name(image, number)) in self._sizes:
      for extension in self._files[name]:
        (self._folder / f"{name}{extension}").unlink(missing_ok=True)
      number += 1

  def close(self) -> None:
    """Close the journal."""
    self._journal.close()


def _crop_entry(job):
  if job.crop is None:
    return None
  return {"box": list(job.crop.box), "scale_limits": job.crop.scale_limits}


class OutputFolder:
  """Files of images in one folder, all made with the same settings.

  A manifest says what each kind of files was made with, and files made in
  another way are refused. The photo record says which images are finished.
  `made_with` has the settings of this run by kind; other kinds may be of any.
  """

  record = RECORD
  # What the files are and what makes them; the way out of other settings.
  content, maker, way_out = "features", "model", "--overwrite"
  # Settings that do not count.
  for_people: tuple[str, ...] = ("delf_version", "model_path")
  endings: tuple[str, ...] = ()
  wants_images = False  # To write a result.

  def __init__(self, folder: str | os.PathLike, made_with: dict):
    self.folder = files.local_folder(folder)
    self.made_with = made_with
    self.photos = PhotoRecord(self.folder)
    self._recorded = {}
    self._is_replaced = False

  def paths(self, job: engine.Job) -> list[pathlib.Path]:
    """Return the paths of all files that a finished image has."""
    return [self.folder / f"{job.name}{ending}" for ending in self.endings]

  def check(self, plan: list[engine.Job], overwrite: bool) -> None:
    """Raise InputError if files of other settings would stay in the folder.

    It names what differs, and nothing has been changed.
    """
    try:
      self._recorded = self._read_record()
      differences = {
        kind: self._difference(self._recorded[kind], wanted)
        for kind, wanted in self.made_with.items()
        if kind in self._recorded
      }
    except errors.InputError:
      if not overwrite:
        raise
      differences = dict.fromkeys(self.made_with, "with unknown settings")
    for kind, difference in differences.items():
      if not difference:
        continue
      if not overwrite:
        name = f"{kind} {self.content}".strip()
        raise errors.InputError(
          f"{name} of the same {self.maker} and settings, or {self.way_out}",
          f"{name} made {difference}",
          self.folder / self.record,
        )
      self._check_all_replaced(plan, kind, difference)
      self._is_replaced = True

  def _check_all_replaced(self, plan, kind, difference):
    content = f"{kind} {self.content}".strip()
    names = {job.name for job in plan}
    for ending in self._endings_of(kind):
      for path in self.folder.rglob(f"*{ending}"):
        name = path.relative_to(self.folder).as_posix()
        if path.name.startswith(".") or name.removesuffix(ending) in names:
          continue
        raise errors.InputError(
          f"--overwrite of all images that have {content} made {difference}",
          f"only some: {name} would stay",
          self.folder,
        )

  def divide(
    self, plan: list[engine.Job]
  ) -> tuple[list[engine.Job], list[engine.Job]]:
    """Return the jobs to do, and those that are done.

    Done are unchanged photos whose files have their recorded sizes, or, without
    a record, can be read.
    """
    todo, done = [], []
    changed = unknown = 0
    for job in plan:
      is_known = self.photos.has(job)
      if self.photos.has_changed(job):
        changed += 1
        todo.append(job)
      elif all(
        self.photos.is_whole(job, path) if is_known else self._is_readable(path)
        for path in self.paths(job)
      ):
        unknown += not is_known
        done.append(job)
      else:
        todo.append(job)
    if changed:
      logging.info("%d photos are others than before: done again.", changed)
    if unknown:
      logging.warning(
        "%s: %d images had %s without a record of their photo: kept. "
        "--overwrite does them again.",
        self.folder,
        unknown,
        self.content,
      )
    return todo, done

  def prepare(self) -> None:
    """Make the folder; raise an OSError if it cannot be written to."""
    files.make_writable_folder(self.folder)

  def claim(self, todo: list[engine.Job], overwrite: bool) -> None:
    """Remove stale files of images, then write the manifest of the new ones."""
    # In this order a killed run leaves no old files under the new manifest.
    files.remove_leftovers(
      self.folder, todo, self.record, "".join(self.endings[:1])
    )
    for job in todo:
      stale = self.endings if overwrite else ()
      if self._is_replaced or self.photos.has_changed(job):
        stale = self._endings_of(None)
      for ending in stale:
        (self.folder / f"{job.name}{ending}").unlink(missing_ok=True)
    if self.made_with:
      record = self._recorded | self.made_with
      manifest.write(self.folder / self.record, record.get("", record))

  def finish(self) -> None:
    """End a run that was not stopped."""

  def close(self) -> None:
    """Close what writing has opened."""
    self.photos.close()

  def report_fields(self) -> dict:
    """Return fields of the run's report that the folder knows."""
    return {}

  def _read_record(self):
    """Returns the settings of each kind of files; {} without a record."""
    return manifest.read(self.folder / self.record) or {}

  def _difference(self, existing, wanted):
    return manifest.difference(existing, wanted, self.for_people)

  def _endings_of(self, kind):
    """Returns the endings of the files of a kind, or of all kinds for None."""
    return self.endings

  def _is_readable(self, path):
    """Returns whether a file without a record is one of these."""
    return False


# Endings of the files of each head, which is one kind of features.
_ENDINGS = {
  "local": (files.DELF, files.DELG_LOCAL),
  "global": (files.DELG_GLOBAL,),
}


class FeatureFolder(OutputFolder):
  """Feature files of one configuration in one folder."""

  def __init__(
    self,
    folder: str | os.PathLike,
    config: delf_config_pb2.DelfConfig,
    local_extension: str,
    made_with: dict,
    on_written: Callable[[str, features.ImageFeatures], object] | None = None,
  ):
    """`made_with` is of `describe`; `on_written` gets names and features."""
    super().__init__(folder, made_with)
    self._on_written = on_written
    if config.use_local_features:
      self.endings += (local_extension,)
    if config.use_global_features:
      self.endings += (files.DELG_GLOBAL,)
    if not self.endings:
      raise errors.InputError(
        "use_local_features or use_global_features", "a configuration of none"
      )

  def write(self, job: engine.Job, found: features.ImageFeatures) -> None:
    """Write the files of one image, each whole or not at all.

    A missing global descriptor, as of a tiny image, is written as [0].
    """
    for path in self.paths(job):
      if path.suffix == files.DELG_GLOBAL:
        descriptor = found.global_descriptor
        if descriptor is None:
          descriptor = np.zeros([0], dtype=np.float32)
        data = datum_io.SerializeToString(descriptor)
      else:
        data = feature_io.SerializeToString(
          found.local.locations,
          found.local.scales,
          found.local.descriptors,
          found.local.attention,
          found.local.orientations,
        )
      files.write_bytes(path, data)
    self.photos.add(job, self.paths(job))
    if self._on_written is not None:
      self._on_written(job.name, found)

  def _read_record(self):
    path = self.folder / self.record
    record = read(path)
    if record is None and path.exists():
      raise errors.InputError(
        "a record of what the features were made with", "something else", path
      )
    return record or {}

  def _difference(self, existing, wanted):
    return difference(existing, wanted)

  def _endings_of(self, kind):
    return _ENDINGS[kind] if kind else sum(_ENDINGS.values(), ())

  def _is_readable(self, path):
    is_global = path.suffix == files.DELG_GLOBAL
    try:
      (datum_io if is_global else feature_io).ReadFromFile(path)
    except (OSError, ValueError):
      return False
    return True


# Part of a configuration that each head reads.
_PARTS = {"local": "delf_local_config", "global": "delf_global_config"}

# What does not change the features of a head: which ones are kept shows in the
# files, and the model's hash says its kind and what was set at its export.
_WITHOUT_EFFECT = (
  "model_path",
  "is_tf2_exported",
  "use_local_features",
  "use_global_features",
)

# Keys that two extractions are compared by.
_COMPARED = {"model", "apply_rotation", "files", "settings"}


def describe(
  config: delf_config_pb2.DelfConfig,
  model_folder: str | os.PathLike | None,
  apply_rotation: bool,
) -> dict:
  """Return what decides the content of features, by head, for JSON.

  Heads in use are "local" and "global". `delf_version` and `model_path` are for
  people, and not compared.
  """
  model = fingerprint(model_folder) if model_folder else None
  made_with = {}
  for head, part in _PARTS.items():
    if getattr(config, f"use_{head}_features"):
      settings, hashes = _settings(config, part)
      made_with[head] = {
        "delf_version": delf.__version__,
        "model_path": config.model_path,
        "model": model,
        "settings": settings,
        "files": hashes,
        "apply_rotation": bool(apply_rotation),
      }
  return made_with


def read(path: pathlib.Path) -> dict | None:
  """Read what `describe` returned; None if the file is missing or another."""
  try:
    record = manifest.read(path)
  except errors.InputError:
    return None
  is_described = record and all(
    name in _PARTS
    and isinstance(head, dict)
    and set(head) >= _COMPARED
    and isinstance(head["settings"], list)
    and all(isinstance(setting, str) for setting in head["settings"])
    for name, head in record.items()
  )
  return record if is_described else None


def difference(existing: dict, wanted: dict) -> str:
  """Describe what one head was made with other than wanted; "" for nothing."""
  if existing["model"] != wanted["model"]:
    return f"with another model (SHA-256 {str(existing['model'])[:12]}...)"
  if existing["files"] != wanted["files"]:
    return "with other PCA files"
  # Settings are lines: those of one of the two alone say what differs.
  lines = (existing["settings"], wanted["settings"])
  here, new = (
    ", ".join(line.strip() for line in one if line not in other)
    for one, other in (lines, lines[::-1])
  )
  if here and new:
    return f"with {here} and not {new}"
  if here or new:
    return f"with {here}" if here else f"without {new}"
  ignored = ("delf_version", "model_path", "model", "files")
  return manifest.difference(existing, wanted, ignored)


def _settings(config, part):
  """Returns canonical settings of a head as lines, and hashes of its files."""
  settings = type(config)()
  settings.CopyFrom(config)
  for name in (*_WITHOUT_EFFECT, *(set(_PARTS.values()) - {part})):
    settings.ClearField(name)
  for name in ("max_image_size", "min_image_size"):
    if getattr(settings, name) <= 0:  # No limit.
      settings.ClearField(name)
  own = getattr(settings, part)
  if part == "delf_global_config":
    chosen = sorted(set(own.image_scales_ind))
    every = list(range(len(config.image_scales)))
    own.image_scales_ind[:] = chosen if chosen != every else []
  else:
    own.ClearField("iou_threshold")
    own.ClearField("layer_name")
  hashes = {}
  if not own.use_pca:
    own.ClearField("pca_parameters")
  elif not own.pca_parameters.use_whitening:
    own.pca_parameters.ClearField("pca_variances_path")
  for field, value in own.pca_parameters.ListFields():
    # Files count by content, not by where they are.
    if field.name.endswith("_path"):
      hashes[field.name] = fingerprint(zoo.local_path(value))
      own.pca_parameters.ClearField(field.name)
  _clear_defaults(settings)
  return text_format.MessageToString(settings).splitlines(), hashes


def _clear_defaults(message):
  for field, value in message.ListFields():
    if field.message_type is not None:
      _clear_defaults(value)
      if not value.ListFields():
        message.ClearField(field.name)
    elif value == field.default_value:
      message.ClearField(field.name)


def fingerprint(path: str | os.PathLike) -> str:
  """Return the SHA-256 of a file, or of all files in a folder, in hex."""
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path}: expected a file, found none")
  digest = hashlib.sha256()
  inside = sorted(p for p in path.rglob("*") if p.is_file())
  for file in inside if path.is_dir() else [path]:
    digest.update(file.relative_to(path).as_posix().encode())
    with open(file, "rb") as content:
      while block := content.read(2**20):
        digest.update(block)
  return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class ExtractOptions(engine.ImageOptions):
  """Options of an extraction; the configuration says what is extracted."""

  # Part of each image, or None for all of it; locations are in its pixels.
  crops: Sequence[engine.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: typing.Any = None  # In place of one made from the configuration.
  # Called, in a thread, with name and features of images that were written.
  on_written: Callable[[str, features.ImageFeatures], object] | None = None


def extract_to_files(
  images: Sequence[str | os.PathLike],
  config: delf_config_pb2.DelfConfig,
  output_dir: str | os.PathLike,
  **options: typing.Any,
) -> engine.ImageReport:
  """Extract features of images and write them, each file whole or not at all.

  A failed image does not end the run, and a stopped run can be repeated: it
  does what is missing. `extraction.json` in the folder has the model and
  settings; files of others are refused. `extraction_images.jsonl` has the size
  and part of each photo; photos that differ are extracted again.

  `output_dir` is a local folder for `<name>.delf` and `<name>.delg_global`;
  options are fields of ExtractOptions. Returns a report also after an interrupt
  by the user (SIGINT). InputError if nothing can be done, as with a folder of
  other features; an OSError, if files cannot be written, has a `report`.
  """
  options = ExtractOptions(**options)
  plan = engine.plan(images, options.names, options.crops)
  made_with = describe(
    config, model_folder(config, options), options.apply_rotation
  )
  folder = FeatureFolder(
    output_dir, config, options.local_extension, made_with, options.on_written
  )

  def make():
    return options.extractor or _make_extractor(config, options), config

  report = engine.ImageReport()
  return engine.run_images(plan, folder, make, options, report, "extracting")


def model_folder(
  config: delf_config_pb2.DelfConfig, options: typing.Any
) -> os.PathLike | None:
  """Return the folder of a configuration's model, if it is to be used."""
  if options.extractor is not None and not config.model_path:
    return None
  return zoo.resolve(config.model_path)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.inference import extractor

  return extractor.make_extractor(config, device=options.device)


def find_features(
  sources: Sequence[str | os.PathLike],
) -> tuple[set[str], set[str]] | None:
  """Return the names and extensions of feature files in a folder.

  None unless there is one source, a folder of feature files without images.
  """
  folder = pathlib.Path(sources[0])
  if len(sources) > 1 or not folder.is_dir():
    return None
  names, extensions = set(), set()
  # Strings: a Path of each file takes several times as long.
  for parent, _, inside in os.walk(folder):
    below = pathlib.Path(parent).relative_to(folder).as_posix()
    prefix = "" if below == "." else f"{below}/"
    for file in inside:
      stem, extension = os.path.splitext(file)
      if file.startswith("."):
        continue
      if extension.lower() in files.IMAGES:
        return None
      if extension in (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL):
        names.add(f"{prefix}{stem}")
        extensions.add(extension)
  return (names, extensions) if names else None


def read_local(path: str | os.PathLike) -> features.LocalFeatures:
  """Read a `.delf` or `.delg_local` file; raise InputError if not finite."""
  found = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    arrays.check_finite(getattr(found, name), name, path)
  return found


def read_global(path: str | os.PathLike) -> np.ndarray:
  """Read a `.delg_global` file, finite: [D] float32, [0] of a tiny image."""
  found = datum_io.ReadFromFile(path)
  if found.ndim != 1 or not np.isfinite(found).all():
    raise errors.InputError(
      "a descriptor of shape [D], finite", f"shape {list(found.shape)}", path
    )
  return found.astype(np.float32)


def read_globals(
  wanted: Sequence[str], what: str, dimension: int | None = None
) -> list[np.ndarray]:
  """Read `.delg_global` files of one dimension, but for tiny images' [0]."""
  found = []
  for path in progress.track(wanted, f"reading {what}"):
    descriptor = datum_io.ReadFromFile(path)
    if descriptor.ndim != 1 or descriptor.dtype != np.float32:
      raise errors.InputError(
        "a global descriptor, float32 [D]",
        f"{descriptor.dtype} {list(descriptor.shape)}",
        path,
      )
    arrays.check_finite(descriptor, "descriptor", path)
    dimension = dimension or descriptor.size
    if descriptor.size not in (0, dimension):
      raise errors.InputError(
        f"{dimension} values as the other descriptors have",
        f"{descriptor.size}",
        path,
      )
    found.append(descriptor)
  return found


def require_files(
  names: Sequence[str], folder: str | os.PathLike, extension: str, what: str
) -> list[str]:
  """Return the paths of images' files; raise InputError if some are missing."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  wanted = [os.path.join(folder, f"{name}{extension}") for name in names]
  missing = [path for path in wanted if not os.path.isfile(path)]
  if missing:
    named = ", ".join(os.path.basename(path) for path in missing[:_NAMED])
    more = ", ..." if len(missing) > _NAMED else ""
    raise errors.InputError(
      f"a {extension} file of each of {len(names)} {what}",
      f"none of {len(missing)} ({named}{more})",
      folder,
    )
  return wanted


def whole_image_paths(
  names: Sequence[str], folder: str | os.PathLike, extension: str
) -> list[str]:
  """Return the files of whole images: `<name>`, or `<name>_0` of regions."""
  paths = []
  for path in (os.path.join(folder, name) for name in names):
    whole, region = f"{path}{extension}", f"{path}_0{extension}"
    is_region = os.path.isfile(region) and not os.path.isfile(whole)
    paths.append(region if is_region else whole)
  return paths
