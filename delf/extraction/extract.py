"""Features of many images: folders of output files, runs, and reading."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from google.protobuf import text_format

import delf
from delf.base import arrays, errors, files, manifest, progress
from delf.extraction import engine
from delf.formats import features
from delf.inference import extractor, zoo
from delf.protos import delf_config_pb2
from delf.python import datum_io, feature_io

# A line per finished image: its name, the size of the photo, the size of each
# output file by extension, in bytes, and the box of a part of a photo; no paths
# or times, since data sets are moved.
PHOTOS = "extraction_images.jsonl"

# Settings of the feature files in the same folder, for each head.
RECORD = "extraction.json"
_NAMED = 5  # Missing files in an error message.


class PhotoRecord:
  """Journal of the photos of the files in a folder."""

  def __init__(self, folder: str | os.PathLike):
    self._folder = pathlib.Path(folder)
    self._journal = manifest.Journal(self._folder / PHOTOS)
    # Name -> bytes, crop, and size of each file by extension.
    self._entries: dict[str, tuple[int | None, dict | None, dict]] = {}
    for name, size, crop, sizes in self._journal.read(
      lambda e: (e["name"], e["bytes"], e.get("crop"), dict(e["files"]))
    ):
      # Later lines replace earlier ones, but for files of other heads, which
      # may be extracted in another run.
      self._entries[name] = size, crop, self._files(name) | sizes

  def _files(self, name):
    return self._entries[name][2] if name in self._entries else {}

  def has(self, job: engine.Job) -> bool:
    """Return whether a photo with this name is recorded."""
    return job.name in self._entries

  def has_changed(self, job: engine.Job) -> bool:
    """Return whether the photo, or the part of it, is not the recorded one."""
    size, crop, _ = self._entries.get(job.name, (None, _crop_entry(job), {}))
    is_other_size = None not in (size, job.size) and size != job.size
    return is_other_size or crop != _crop_entry(job)

  def is_whole(self, job: engine.Job, path: pathlib.Path) -> bool:
    """Return whether an output file has its recorded size."""
    size = self._files(job.name).get(path.suffix)
    return size is not None and path.exists() and path.stat().st_size == size

  def box(self, name: str) -> tuple | None:
    """Return the part (x1, y1, x2, y2) in pixels; None for a whole photo."""
    _, crop, _ = self._entries.get(name, (None, None, {}))
    return None if crop is None else tuple(crop["box"])

  def add(self, job: engine.Job, paths: list[pathlib.Path]) -> None:
    """Record a photo after its files are written."""
    sizes = {path.suffix: path.stat().st_size for path in paths}
    entry = {"name": job.name, "bytes": job.size, "files": sizes}
    if job.crop is not None:
      entry["crop"] = _crop_entry(job)
    self._journal.add(entry)

  def remove_regions(self, image: str, number: int) -> None:
    """Remove recorded files of an image's regions from `number` onwards."""
    while (name := engine.region_name(image, number)) in self._entries:
      for extension in self._files(name):
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
  """Files of images in one folder, all with the same settings.

  A manifest has the settings of each kind of files; a run with other settings
  is rejected. The photo record lists the finished images. `made_with` has the
  settings of this run by kind.
  """

  record = RECORD
  # Content of the files, their maker, and the remedy for other settings.
  content, maker, advice = "features", "model", "--overwrite"
  # Settings that are not compared.
  for_people: tuple[str, ...] = ("delf_version", "model_path")
  endings: tuple[str, ...] = ()
  wants_images = False  # Whether `write` needs the image.

  def __init__(self, folder: str | os.PathLike, made_with: dict):
    self.folder = files.local_folder(folder)
    self.made_with = made_with
    self.photos = PhotoRecord(self.folder)
    self._recorded: dict[str, dict] = {}
    self._is_replaced = False

  def paths(self, job: engine.Job) -> list[pathlib.Path]:
    """Return the paths of all files of a finished image."""
    return [self.folder / f"{job.name}{ending}" for ending in self.endings]

  def check(self, plan: list[engine.Job], overwrite: bool) -> None:
    """Raise InputError if files of other settings would stay in the folder.

    The message lists the differences. Nothing is changed.
    """
    try:
      self._recorded = self._read_record()
      differences = {
        kind: self._difference(self._recorded[kind], settings)
        for kind, settings in self.made_with.items()
        if kind in self._recorded
      }
    except errors.InputError:
      if not overwrite:
        raise
      differences = dict.fromkeys(self.made_with, "with unknown settings")
    for kind, difference in differences.items():
      if not difference:
        continue
      made = f"{kind} {self.content} made {difference}".lstrip()
      if not overwrite:
        raise errors.InputError(
          f"{made} exist: use the same {self.maker} and settings, or"
          f" {self.advice}",
          path=self.folder / self.record,
        )
      self._check_all_replaced(plan, kind, made)
      self._is_replaced = True

  def _check_all_replaced(self, plan, kind, made):
    names = {job.name for job in plan}
    for ending in self._endings_of(kind):
      for path in self.folder.rglob(f"[!.]*{ending}"):
        name = path.relative_to(self.folder).as_posix()
        if name.removesuffix(ending) not in names:
          message = f"--overwrite must include all images with {made}, but"
          message += f" {name} would stay"
          raise errors.InputError(message, path=self.folder)

  def divide(
    self, plan: list[engine.Job]
  ) -> tuple[list[engine.Job], list[engine.Job]]:
    """Return the jobs to do, and the jobs that are done.

    Photos are done if they are unchanged and their files have their recorded
    sizes; without a record, if their files can be read.
    """
    todo: list[engine.Job] = []
    done: list[engine.Job] = []
    changed = unknown = 0
    for job in plan:
      has_changed, is_known = self.photos.has_changed(job), self.photos.has(job)
      is_done = not has_changed and all(
        self.photos.is_whole(job, path) if is_known else self._is_readable(path)
        for path in self.paths(job)
      )
      (done if is_done else todo).append(job)
      changed += has_changed
      unknown += is_done and not is_known
    if changed:
      logging.info("%d photos have changed: processed again.", changed)
    if unknown:
      text = f"kept {self.content} of {unknown} images without a record"
      logging.warning("%s: %s; --overwrite replaces them", self.folder, text)
    return todo, done

  def prepare(self) -> None:
    """Make the folder; raise an OSError if it cannot be written to."""
    files.make_writable_folder(self.folder)

  def claim(self, todo: list[engine.Job], overwrite: bool) -> None:
    """Remove stale files of images, then write the manifest of the new ones."""
    # In this order a killed run leaves no old files with the new manifest.
    files.remove_leftovers(
      self.folder, todo, self.record, "".join(self.endings[:1])
    )
    for job in todo:
      is_stale = self._is_replaced or self.photos.has_changed(job)
      stale = self._endings_of(None) if is_stale else self.endings
      for ending in stale if is_stale or overwrite else ():
        (self.folder / f"{job.name}{ending}").unlink(missing_ok=True)
    if self.made_with:
      record = self._recorded | self.made_with
      manifest.write(self.folder / self.record, record.get("", record))

  def finish(self) -> None:
    """Complete a run that was not stopped."""

  def close(self) -> None:
    """Close the photo record."""
    self.photos.close()

  def report_fields(self) -> dict:
    """Return fields to set in the run's report."""
    return {}

  def _read_record(self):
    """Returns the settings of each kind of files; {} without a record."""
    return manifest.read(self.folder / self.record) or {}

  def _difference(self, existing, requested):
    return manifest.difference(existing, requested, self.for_people)

  def _endings_of(self, kind):
    """Returns the endings of the files of a kind, or of all kinds for None."""
    return self.endings

  def _is_readable(self, path):
    """Returns whether a file without a record is valid."""
    return False


# Endings of the files of each head (kind of features).
_ENDINGS = {
  "local": (files.DELF, files.DELG_LOCAL),
  "global": (files.DELG_GLOBAL,),
}


class FeatureFolder(OutputFolder):
  """Feature files of one configuration in one folder.

  `made_with` is that of `describe`, `on_written` that of ExtractOptions.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    config: delf_config_pb2.DelfConfig,
    local_extension: str,
    made_with: dict,
    on_written: Callable[[str, features.ImageFeatures], object] | None = None,
  ):
    super().__init__(folder, made_with)
    self._on_written = on_written
    if config.use_local_features:
      self.endings += (local_extension,)
    if config.use_global_features:
      self.endings += (files.DELG_GLOBAL,)
    if not self.endings:
      message = "set use_local_features or use_global_features to true"
      raise errors.InputError(message)

  def write(self, job: engine.Job, extracted: features.ImageFeatures) -> None:
    """Write the files of one image, each atomically.

    The missing global descriptor of a tiny image is written as [0].
    """
    for path in self.paths(job):
      if path.suffix == files.DELG_GLOBAL:
        descriptor = extracted.global_descriptor
        if descriptor is None:
          descriptor = np.zeros([0], dtype=np.float32)
        datum_io.WriteToFile(descriptor, path)
      elif extracted.local is not None:
        feature_io.write_local_features(path, extracted.local)
    self.photos.add(job, self.paths(job))
    if self._on_written is not None:
      self._on_written(job.name, extracted)

  def _read_record(self):
    path = self.folder / self.record
    record = read(path)
    if record is None and path.exists():
      message = "not a record of the settings of features"
      raise errors.InputError(message, path=path)
    return record or {}

  def _difference(self, *settings):
    return difference(*settings)

  def _endings_of(self, kind):
    return _ENDINGS[kind] if kind else sum(_ENDINGS.values(), ())

  def _is_readable(self, path):
    is_global = path.suffix == files.DELG_GLOBAL
    try:
      (datum_io if is_global else feature_io).ReadFromFile(path)
    except (OSError, ValueError):
      return False
    return True


# Part of the configuration of each head.
_PARTS = {"local": "delf_local_config", "global": "delf_global_config"}

# Settings that do not change the features of a head: the files show which heads
# were used, and the model's hash includes its kind and settings of its export.
_WITHOUT_EFFECT = (
  "model_path", "is_tf2_exported", "use_local_features", "use_global_features",
)  # fmt: skip

# Settings that are compared.
_COMPARED = {"model", "apply_rotation", "files", "settings"}


def describe(
  config: delf_config_pb2.DelfConfig,
  model_folder: str | os.PathLike | None,
  apply_rotation: bool,
) -> dict:
  """Return the settings that determine features, by head, for JSON.

  Heads in use are "local" and "global". `delf_version` and `model_path` are
  informative, and not compared.
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
  """Read the settings of `describe`; None if missing or invalid."""
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


def difference(existing: dict, requested: dict) -> str:
  """Describe how the settings of a head differ from requested ones, or ""."""
  if existing["model"] != requested["model"]:
    return f"with another model (SHA-256 {str(existing['model'])[:12]}...)"
  if existing["files"] != requested["files"]:
    return "with other PCA files"
  # Settings are lines of text.
  lines = (existing["settings"], requested["settings"])
  old, new = (
    ", ".join(line.strip() for line in one if line not in other)
    for one, other in (lines, lines[::-1])
  )
  if old:
    return f"with {old}, not {new}" if new else f"with {old}"
  if new:
    return f"without {new}"
  ignored = ("delf_version", "model_path", "model", "files")
  return manifest.difference(existing, requested, ignored)


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
    # Files are compared by content, not by path.
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
    raise FileNotFoundError(f"{path}: no such file")
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
  """Options of an extraction, beside its configuration."""

  # Part of each image, or None for all of it; locations are in its pixels.
  crops: Sequence[engine.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: Any = None  # Replaces the extractor of the configuration.
  # Called, in a thread, with the name and features of each written image.
  on_written: Callable[[str, features.ImageFeatures], object] | None = None


def extract_to_files(
  images: Sequence[str | os.PathLike],
  config: delf_config_pb2.DelfConfig,
  output_dir: str | os.PathLike,
  **options: Any,
) -> engine.ImageReport:
  """Extract features of images and write them to files, each atomically.

  The run is resumable: files of other settings (`extraction.json`) are an
  InputError, changed photos (`extraction_images.jsonl`) are extracted again.

  `output_dir` is a local folder of `<name>.delf` and `<name>.delg_global`;
  options are fields of ExtractOptions. Returns the report also after an
  interrupt (SIGINT). Raises InputError if the run cannot start, and OSError
  with the `report` so far if a file cannot be written.
  """
  chosen = ExtractOptions(**options)
  plan = engine.plan(images, chosen.names, chosen.crops)
  made_with = describe(
    config, model_folder(config, chosen), chosen.apply_rotation
  )
  folder = FeatureFolder(
    output_dir, config, chosen.local_extension, made_with, chosen.on_written
  )

  def make():
    make = extractor.make_extractor
    return chosen.extractor or make(config, device=chosen.device), config

  report = engine.ImageReport()
  return engine.run_images(plan, folder, make, chosen, report, "extracting")


def model_folder(
  config: delf_config_pb2.DelfConfig, options: Any
) -> os.PathLike | None:
  """Return the folder of a configuration's model; None if it is not used."""
  if options.extractor is not None and not config.model_path:
    return None
  return zoo.resolve(config.model_path)


def find_features(
  sources: Sequence[str | os.PathLike],
) -> tuple[set[str], set[str]] | None:
  """Return the names and extensions of feature files in a folder.

  None unless the only source is a folder of feature files without images.
  """
  folder = pathlib.Path(sources[0])
  if len(sources) > 1 or not folder.is_dir():
    return None
  names, extensions = set(), set()
  # Strings, since a Path per file takes several times as long.
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
  local = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    arrays.check_finite(getattr(local, name), name, path)
  return local


def read_global(path: str | os.PathLike) -> np.ndarray:
  """Read a `.delg_global` file, finite: [D] float32, [0] for a tiny image."""
  descriptor = datum_io.ReadFromFile(path)
  if descriptor.ndim != 1 or descriptor.dtype != np.float32:
    kind = f"{descriptor.dtype} {list(descriptor.shape)}"
    message = f"a global descriptor must be float32 [D], not {kind}"
    raise errors.InputError(message, path=path)
  return arrays.check_finite(descriptor, "descriptor", path)


def read_globals(
  paths: Sequence[str], label: str, dimension: int | None = None
) -> list[np.ndarray]:
  """Read `.delg_global` files of one dimension, [0] for tiny images."""
  descriptors = []
  for path in progress.track(paths, f"reading {label}"):
    descriptors.append(descriptor := read_global(path))
    dimension = dimension or descriptor.size
    if descriptor.size not in (0, dimension):
      message = f"{descriptor.size} values, but other descriptors have"
      raise errors.InputError(f"{message} {dimension}", path=path)
  return descriptors


def require_files(
  names: Sequence[str], folder: str | os.PathLike, extension: str, label: str
) -> list[str]:
  """Return the paths of images' files; raise InputError if some are missing."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: no such folder")
  paths = [os.path.join(folder, f"{name}{extension}") for name in names]
  missing = [path for path in paths if not os.path.isfile(path)]
  if missing:
    named = ", ".join(os.path.basename(path) for path in missing[:_NAMED])
    more = ", ..." if len(missing) > _NAMED else ""
    raise errors.InputError(
      f"{len(missing)} of {len(names)} {label} have no {extension} file"
      f" ({named}{more})",
      path=folder,
    )
  return paths


def whole_image_paths(
  names: Sequence[str], folder: str | os.PathLike, extension: str
) -> list[str]:
  """Return the files of whole images: `<name>`, or `<name>_0` with regions."""
  paths = [os.path.join(folder, f"{name}{extension}") for name in names]
  regions = [f"{path.removesuffix(extension)}_0{extension}" for path in paths]
  return [
    region if os.path.isfile(region) and not os.path.isfile(path) else path
    for path, region in zip(paths, regions, strict=True)
  ]
