"""The compact model on disk: training weights, SavedModel and configuration."""

import json
import os
import pathlib

import keras
import numpy as np

from delf.base import arrays as base_arrays
from delf.base import errors, files
from delf.inference import zoo
from delf.learning import file_learner
from delf.networks import exporting
from delf.python.training.model import delg_model

# File of the training weights in the folder of a model.
WEIGHTS = "weights.npz"

# Overlap of two boxes above which the weaker feature goes.
IOU = 0.4

# Of the configuration, chosen on held-out photos (docs/EMBEDDED_MODEL.md): few
# scales, with the finest enlarged, where locations are the most exact.
SCALES = (0.3, 0.5, 0.85, 1.6)
GLOBAL_SCALES = (0.5, 0.85)
THRESHOLD = 0.4

_CONFIGURATION = """\
# The model that comes with the package: local features and a global descriptor.

model_path: {path}
{scales}
max_image_size: 1024
use_local_features: true
use_global_features: true
delf_local_config {{
  use_pca: false
  max_feature_num: 2000
  score_threshold: {threshold}
}}
delf_global_config {{
  use_pca: false
  {indices}
}}
is_tf2_exported: true
"""

_KIND = "the weights of a compact model"
_ARCHITECTURE, _COMPACT = "architecture", "compact"


def create(**options) -> delg_model.Delg:
  """Create a compact model with random weights."""
  return delg_model.Delg(backbone="compact", block3_strides=False, **options)


def save(model: delg_model.Delg, folder: str | os.PathLike) -> None:
  """Write the weights of a model into a folder, kernels in half precision.

  Training does not notice, and the file, which comes with the package, is half
  as large. Statistics may be too small or too large for it.
  """
  arrays = {}
  for name, variable in _variables(model).items():
    array = keras.ops.convert_to_numpy(variable)
    fits = array.ndim > 1 and np.abs(array).max() < np.finfo(np.float16).max
    arrays[name] = array.astype(np.float16) if fits else array
  with files.atomic_path(pathlib.Path(folder, WEIGHTS)) as temporary:
    np.savez_compressed(temporary, **{_ARCHITECTURE: _COMPACT}, **arrays)


def weights_file(source: str | os.PathLike) -> pathlib.Path | None:
  """Return the file of weights that a path is or, as a folder, holds."""
  path = pathlib.Path(source)
  if path.name == WEIGHTS:
    return path
  return path / WEIGHTS if (path / WEIGHTS).is_file() else None


def load(model: delg_model.Delg, path: str | os.PathLike) -> None:
  """Give a model the weights in a folder or file, all of them or none.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or of another architecture.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / WEIGHTS
  if not path.exists():
    raise FileNotFoundError(f"{path}: expected {_KIND}, found none")
  arrays = base_arrays.read_npz(path, _KIND, [_ARCHITECTURE])
  architecture = str(arrays.pop(_ARCHITECTURE))
  if architecture != _COMPACT:
    raise errors.InputError(_KIND, f"those of {architecture[:40]!r}", path)
  variables = _variables(model)
  for name in sorted(set(arrays) | set(variables)):
    _check(variables.get(name), arrays.get(name), name, path)
  for name, variable in variables.items():
    variable.assign(arrays[name])


def _check(variable, array, name, path):
  """Raise InputError if an array is not that of a variable."""
  expected = None if variable is None else tuple(variable.shape)
  received = None if array is None else tuple(array.shape)
  if expected != received:
    raise errors.InputError(
      f"weights of this architecture, {name} {expected or 'not among them'}",
      f"another one, {received or 'without it'}",
      path,
    )
  if not np.issubdtype(array.dtype, np.floating):
    raise errors.InputError(f"numbers as {name}", str(array.dtype), path)
  base_arrays.check_finite(array, f"numbers as {name}", path)


def _variables(model):
  """Return the variables by names that do not depend on the model's."""
  return {
    f"{part}/{variable.path.removeprefix(f'{layer.name}/')}": variable
    for part, layer in (
      ("backbone", model.backbone),
      ("attention", model.attention),
    )
    for variable in layer.variables
  }


def from_checkpoint(path: str | os.PathLike) -> delg_model.Delg:
  """Create a model with the weights of a checkpoint of `CompactTrainer`.

  Raises:
    InputError: If it is no such file, or if a variable is missing or of another
      shape or name.
  """
  model = create()
  variables = model.backbone.variables + model.attention.variables
  file_learner.restore(variables, path)
  return model


def export(
  model: delg_model.Delg, folder: str | os.PathLike, iou: float = IOU
) -> None:
  """Export a model, with its configuration and training weights beside it.

  An export in the folder is replaced; its Markdown files stay.
  """
  folder = pathlib.Path(folder)
  settings = configuration(configured_path(folder)).encode()
  kept = {path.name: path.read_bytes() for path in folder.glob("*.md")}
  with exporting.destination(folder, overwrite=True) as new:
    exporting.export_local_and_global(model, new, iou=iou)
    save(model, new)
    for name, data in (kept | {"config.pbtxt": settings}).items():
      files.write_bytes(new / name, data)


def configured_path(folder: pathlib.Path) -> str:
  """Return the `model_path` of a configuration for the model in a folder."""
  embedded = zoo.artefact(zoo.EMBEDDED)
  if folder.resolve() == zoo.folder(embedded).resolve():
    return embedded.name
  # Absolute: a relative one that is not found may be taken for a known name.
  return os.fspath(folder.resolve())


def configuration(model_path: str) -> str:
  """Return the text of the DelfConfig of a model of this name or path."""
  indices = [i for i, scale in enumerate(SCALES) if scale in GLOBAL_SCALES]
  return _CONFIGURATION.format(
    path=json.dumps(model_path, ensure_ascii=False),
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in SCALES),
    threshold=THRESHOLD,
    indices="\n  ".join(f"image_scales_ind: {i}" for i in indices),
  )
