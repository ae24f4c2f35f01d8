"""What decides the content of features, to compare two extractions by."""

import hashlib
import json
import pathlib

from google.protobuf import text_format

import delf
from delf.python import files
from delf.python.inference import zoo

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
