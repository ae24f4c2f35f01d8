"""What decides the content of features, to compare two extractions by."""

import hashlib
import pathlib

from google.protobuf import text_format

import delf
from delf.protos import delf_config_pb2
from delf.python.inference import zoo


def describe(config, model_folder, apply_rotation):
  """Returns what decides the content of features, to be kept beside them.

  Args:
    config: delf_config_pb2.DelfConfig.
    model_folder: Folder of the SavedModel, or None where there is none.
    apply_rotation: Whether the EXIF orientation is applied.

  Returns:
    dict for JSON; `identity` is compared, the rest is for people.
  """
  identity = delf_config_pb2.DelfConfig()
  identity.CopyFrom(config)
  hashes = {}
  # Files count by content, not by where they are.
  for part in ("delf_local_config", "delf_global_config"):
    if not getattr(config, part).use_pca:
      continue
    parameters = getattr(identity, part).pca_parameters
    for field, value in list(parameters.ListFields()):
      if field.name.endswith("_path"):
        hashes[f"{part}.{field.name}"] = _hash(zoo.local_path(value))
        parameters.ClearField(field.name)
  # Which features are kept shows in the files; the model's hash says its kind.
  for name in (
    "model_path",
    "is_tf2_exported",
    "use_local_features",
    "use_global_features",
  ):
    identity.ClearField(name)
  return {
    "delf_version": delf.__version__,
    "model_path": config.model_path,
    "identity": {
      "model": _hash(model_folder) if model_folder else None,
      "settings": text_format.MessageToString(identity).splitlines(),
      "files": hashes,
      "apply_rotation": bool(apply_rotation),
    },
  }


def difference(found, wanted):
  """Returns words for what `found` has and `wanted` has not, "" for none."""
  if found["model"] != wanted["model"]:
    return f"with another model (SHA-256 {str(found['model'])[:12]}...)"
  if found["apply_rotation"] != wanted["apply_rotation"]:
    return f"with apply_rotation {found['apply_rotation']}"
  if found["files"] != wanted["files"]:
    return "with other PCA files"
  return _settings_difference(found["settings"], wanted["settings"])


def _settings_difference(found, wanted):
  here = ", ".join(s.strip() for s in found if s not in wanted)
  new = ", ".join(s.strip() for s in wanted if s not in found)
  if here and new:
    return f"with {here} and not {new}"
  if here or new:
    return f"with {here}" if here else f"without {new}"
  return "with its settings in another order" if found != wanted else ""


def _hash(path):
  """Returns the SHA-256 of a file, or of all files in a folder."""
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
