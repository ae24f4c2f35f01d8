"""The feature files of one extraction in one folder."""

import hashlib
import json
import pathlib

import numpy as np
from absl import logging
from google.protobuf import text_format

import delf
from delf.base import errors, files
from delf.inference import zoo
from delf.python import datum_io, feature_io

# A line per finished image: its name, the size of the photo, and the size of
# each feature file by extension, in bytes; of a part of a photo also which.
# Paths and times are not in it, as data sets are moved.
PHOTO_RECORD_RECORD = "extraction_images.jsonl"


class PhotoRecord:
  """The record of one output folder, which is only ever appended to."""

  def __init__(self, folder):
    """Reads what is there.

    Args:
      folder: Path of the output folder; need not exist.
    """
    self._path = pathlib.Path(folder) / PHOTO_RECORD_RECORD
    self._photos, self._crops, self._files = _read(self._path)
    self._file = None

  def has(self, job):
    """Returns whether a photo of this name was recorded."""
    return job.name in self._photos

  def has_changed(self, job):
    """Returns whether it is another photo, or part, than that recorded."""
    if self.has(job) and self._crops.get(job.name) != _crop(job):
      return True
    found = self._photos.get(job.name)
    return None not in (found, job.size) and found != job.size

  def is_whole(self, job, path):
    """Returns whether a feature file is there and as large as it was."""
    size = self._files.get(job.name, {}).get(path.suffix)
    return size is not None and path.exists() and path.stat().st_size == size

  def box(self, name):
    """Returns (x1, y1, x2, y2) in pixels of a part, None for a whole photo."""
    crop = self._crops.get(name)
    return None if crop is None else tuple(crop["box"])

  def add(self, job, sizes):
    """Records a photo whose feature files are written.

    Args:
      job: jobs.Job.
      sizes: dict of extension to the bytes of the file.
    """
    if self._file is None:
      self._file = files.open_to_append(self._path)
    entry = {"name": job.name, "bytes": job.size, "files": sizes}
    if job.crop is not None:
      entry["crop"] = _crop(job)
    self._file.write(f"{json.dumps(entry)}\n".encode())
    self._file.flush()

  def remove_after(self, name_of, number):
    """Removes the files of parts of a photo that are no more.

    Args:
      name_of: Function from the number of a part to its name.
      number: Number of parts that there are now; what was recorded of those
        after is removed.
    """
    while (name := name_of(number)) in self._photos:
      for extension in self._files[name]:
        (self._path.parent / f"{name}{extension}").unlink(missing_ok=True)
      number += 1

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None


def _crop(job):
  """Returns the part of a photo as the record has it, None for all of it."""
  if job.crop is None:
    return None
  return {"box": list(job.crop.box), "scale_limits": job.crop.scale_limits}


def _read(path):
  """Returns {name: size of the photo}, {name: crop}, {name: {ending: size}}.

  The last line of a name counts, and of its files those of earlier lines too:
  heads may be extracted apart.
  """
  photos, crops, outputs = {}, {}, {}
  for line in files.read_bytes(path).splitlines() if path.exists() else []:
    try:
      entry = json.loads(line)
      name, size, written = entry["name"], entry["bytes"], entry["files"]
      outputs[name] = outputs.get(name, {}) | written
      photos[name], crops[name] = size, entry.get("crop")
    except (ValueError, KeyError, TypeError, RecursionError):
      continue  # Cut, as a run was killed.
  return photos, crops, outputs


# Part of a configuration that each head reads; a head is one kind of feature.
_PARTS = {"local": "delf_local_config", "global": "delf_global_config"}

# What does not change the features of a head: which ones are kept shows in the
# files, and the model's hash says its kind and what was set at its export.
_WITHOUT_EFFECT = (
  "model_path",
  "is_tf2_exported",
  "use_local_features",
  "use_global_features",
)


# What two extractions are compared by.
_COMPARED = {"model", "apply_rotation", "files", "settings"}


def describe(config, model_folder, apply_rotation):
  """Returns what decides the content of features, to be kept beside them.

  Args:
    config: delf_config_pb2.DelfConfig.
    model_folder: Folder of the SavedModel, or None where there is none.
    apply_rotation: Whether the EXIF orientation is applied.

  Returns:
    dict of "local" and "global", those that are asked for, to a dict for JSON:
    `difference` compares all but `delf_version` and `model_path`, which are for
    people.
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


def read(path):
  """Reads what `describe` returned from the file that it is kept in.

  Args:
    path: pathlib.Path; need not exist.

  Returns:
    dict as of `describe`, or None where the file is not there, or something
    else.
  """
  if not path.exists():
    return None
  try:
    found = json.loads(files.read_bytes(path))
  except (ValueError, RecursionError):
    return None
  is_one = isinstance(found, dict) and all(map(_is_described, found.values()))
  return found if is_one else None


def _is_described(head):
  return (
    isinstance(head, dict)
    and set(head) >= _COMPARED
    and isinstance(head["settings"], list)
    and all(isinstance(setting, str) for setting in head["settings"])
  )


def difference(found, wanted):
  """Returns words for what `found` has and `wanted` has not, "" for none.

  Args:
    found: What `describe` returned for one head.
    wanted: The same of another extraction.
  """
  if found["model"] != wanted["model"]:
    return f"with another model (SHA-256 {str(found['model'])[:12]}...)"
  if found["apply_rotation"] != wanted["apply_rotation"]:
    return f"with apply_rotation {found['apply_rotation']}"
  if found["files"] != wanted["files"]:
    return "with other PCA files"
  return _settings_difference(found["settings"], wanted["settings"])


def _settings(config, part):
  """Returns settings of one head as lines, and the hash of each file of it.

  Two configurations that mean the same give the same lines.
  """
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
  """Clears the fields that say what they would say unset."""
  for field, value in message.ListFields():
    if field.message_type is not None:
      _clear_defaults(value)
      if not value.ListFields():
        message.ClearField(field.name)
    elif value == field.default_value:
      message.ClearField(field.name)


def _settings_difference(found, wanted):
  here = ", ".join(s.strip() for s in found if s not in wanted)
  new = ", ".join(s.strip() for s in wanted if s not in found)
  if here and new:
    return f"with {here} and not {new}"
  if here or new:
    return f"with {here}" if here else f"without {new}"
  return f"with {found} and not {wanted}" if found != wanted else ""


def fingerprint(path):
  """Returns the SHA-256 of a file, or of all files in a folder, in hex."""
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


# Says what the feature files beside it were made with, for each head.
RECORD = "extraction.json"

# Extensions of the files of each head.
_EXTENSIONS = {
  "local": (files.DELF, files.DELG_LOCAL),
  "global": (files.DELG_GLOBAL,),
}
_ALL_EXTENSIONS = sum(_EXTENSIONS.values(), ())


class OutputFolder:
  """Feature files of one configuration in one folder."""

  wants_images = False  # To write a result.

  def __init__(self, folder, config, local_extension, made_with):
    """Creates it; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      config: delf_config_pb2.DelfConfig: which files an image has.
      local_extension: Extension of local features' files.
      made_with: Result of `provenance.describe`.

    Raises:
      InputError: If the folder is not a local one, or is a file.
    """
    self.folder = files.local_folder(folder)
    self._made_with = made_with
    self._recorded = {}
    self._replaced = []  # Heads whose files have been made with other settings.
    self._photos = PhotoRecord(self.folder)
    self.extensions = []
    if config.use_local_features:
      self.extensions.append(local_extension)
    if config.use_global_features:
      self.extensions.append(files.DELG_GLOBAL)
    if not self.extensions:
      raise errors.InputError(
        "use_local_features or use_global_features", "a configuration of none"
      )

  def paths(self, job):
    """Returns the paths of all files that an image has when it is done."""
    return [self.folder / f"{job.name}{e}" for e in self.extensions]

  def check(self, jobs, overwrite):
    """Checks that no file would be under a record of other settings.

    Args:
      jobs: Images that are asked for.
      overwrite: Whether their files are to be made anew.

    Raises:
      InputError: If what is there was made with another model or settings, and
        stays there; it names what differs. Nothing has been changed then.
    """
    path = self.folder / RECORD
    if not path.exists():
      return
    try:
      self._recorded, differences = self._compare(files.read_bytes(path))
    except (ValueError, KeyError, TypeError, RecursionError):
      if not overwrite:
        raise errors.InputError(
          "a record of what the features were made with", "something else", path
        ) from None
      differences = dict.fromkeys(self._made_with, "by what is not known")
    for head, words in differences.items():
      if not overwrite:
        raise errors.InputError(
          "features of the same model and settings, or --overwrite",
          f"{head} features made {words}",
          path,
        )
      self._check_no_others(jobs, head, words)
      self._replaced.append(head)

  def _compare(self, data):
    """Returns the record, and {head: words} of what was made otherwise."""
    found = json.loads(data)
    if not found or set(found) - set(_EXTENSIONS):
      raise ValueError
    words = {
      head: difference(found[head], made_with)
      for head, made_with in self._made_with.items()
      if head in found
    }
    return found, {head: word for head, word in words.items() if word}

  def _check_no_others(self, jobs, head, words):
    """Raises InputError if other images than those given have files."""
    ours = {job.name for job in jobs}
    for extension in _EXTENSIONS[head]:
      for path in self.folder.rglob(f"*{extension}"):
        name = path.relative_to(self.folder).as_posix()
        is_temporary = path.name.startswith(".")
        if name.removesuffix(extension) not in ours and not is_temporary:
          raise errors.InputError(
            f"--overwrite of all images that have {head} features made {words}",
            f"only some: {name} would stay",
            self.folder,
          )

  def divide(self, jobs):
    """Returns the jobs that are to be done, and those that are done.

    Done are images all of whose files are there, each as large as it was
    written. Files without a record of their photo, as of other programs, must
    be readable. The photo of a record must be the one that is there today, by
    its size.
    """
    todo, done = [], []
    changed = unknown = 0
    for job in jobs:
      known = self._photos.has(job)
      if self._photos.has_changed(job):
        changed += 1
        todo.append(job)
      elif all(
        self._photos.is_whole(job, path) if known else _is_whole(path)
        for path in self.paths(job)
      ):
        unknown += not known
        done.append(job)
      else:
        todo.append(job)
    if changed:
      logging.info("%d photos are others than before: done again.", changed)
    if unknown:
      logging.warning(
        "%s: %d images had features without a record of their photo: kept. "
        "--overwrite does them again.",
        self.folder,
        unknown,
      )
    return todo, done

  def prepare(self):
    """Makes the folder, and sees whether files can be written in it.

    Raises:
      OSError: If not; it names the folder.
    """
    files.make_writable_folder(self.folder)

  def claim(self, jobs, overwrite):
    """Records what the files will be made with, and removes what is stale.

    Args:
      jobs: Images that are about to be extracted.
      overwrite: Whether to remove the files that they have.
    """
    files.remove_leftovers(self.folder, jobs, RECORD)
    # First, so that a run that is killed cannot leave files of another model
    # under the new record.
    for job in jobs:
      stale = self.extensions if overwrite else ()
      if self._replaced or self._photos.has_changed(job):
        stale = _ALL_EXTENSIONS
      for extension in stale:
        (self.folder / f"{job.name}{extension}").unlink(missing_ok=True)
    record = self._recorded | self._made_with
    text = json.dumps(record, indent=2) + "\n"
    files.write_bytes(self.folder / RECORD, text.encode())

  def remove_after(self, name_of, number):
    """Removes the files of parts that are no more; see `PhotoRecord`."""
    self._photos.remove_after(name_of, number)

  def close(self):
    """Ends the writing."""
    self._photos.close()

  def write(self, job, features):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: Job.
      features: features.ImageFeatures; an image that is too small for a global
        descriptor gets an empty one, [0].
    """
    sizes = {}
    for path in self.paths(job):
      if path.suffix == files.DELG_GLOBAL:
        descriptor = features.global_descriptor
        if descriptor is None:
          descriptor = np.zeros([0], dtype=np.float32)
        data = datum_io.SerializeToString(descriptor)
      else:
        data = feature_io.SerializeToString(
          features.local.locations,
          features.local.scales,
          features.local.descriptors,
          features.local.attention,
          features.local.orientations,
        )
      files.write_bytes(path, data)
      sizes[path.suffix] = len(data)
    self._photos.add(job, sizes)


def _is_whole(path):
  try:
    if path.suffix == files.DELG_GLOBAL:
      datum_io.ReadFromFile(path)
    else:
      feature_io.ReadFromFile(path)
  except (OSError, ValueError):
    return False
  return True
