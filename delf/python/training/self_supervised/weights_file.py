"""The weights of a model as training has them, beside its SavedModel.

A SavedModel holds convolutions with batch normalisation folded in, from which
training cannot go on.
"""

import pathlib

import keras
import numpy as np

from delf.python import errors, files
from delf.python.training.self_supervised import array_file

NAME = "weights.npz"

_KIND = "the weights of a compact model"
_ARCHITECTURE = "architecture"
_COMPACT = "compact"


def save(model, folder):
  """Writes the weights of a model, kernels in half precision.

  Training does not notice, and the file, which comes with the package, is half
  as large. Statistics may be too small or too large for it.

  Args:
    model: delg_model.Delg of the compact backbone.
    folder: Folder of the model; it gets the file `weights.npz`.
  """
  arrays = {
    name: _stored(keras.ops.convert_to_numpy(variable))
    for name, variable in _variables(model).items()
  }
  with files.atomic_path(pathlib.Path(folder, NAME)) as temporary:
    np.savez_compressed(temporary, **{_ARCHITECTURE: _COMPACT}, **arrays)


def load(model, path):
  """Gives a model the weights that `save` wrote.

  Args:
    model: delg_model.Delg of the compact backbone. Either all of its weights
      are set, or none.
    path: Folder of a model, or the file.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or of another architecture.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / NAME
  if not path.exists():
    raise FileNotFoundError(f"{path}: expected {_KIND}, found none")
  arrays = array_file.read(path, _KIND, [_ARCHITECTURE])
  found = arrays.pop(_ARCHITECTURE)
  if str(found) != _COMPACT:
    raise errors.InputError(_KIND, f"those of {str(found)[:40]!r}", path)
  variables = _variables(model)
  for name in sorted(set(arrays) | set(variables)):
    _compare(variables.get(name), arrays.get(name), name, path)
  for name, variable in variables.items():
    variable.assign(arrays[name])


def _stored(array):
  most = np.finfo(np.float16).max
  fits = array.ndim > 1 and np.abs(array).max() < most
  return array.astype(np.float16) if fits else array


def _compare(variable, array, name, path):
  """Raises InputError if an array is not that of a variable."""
  wanted = None if variable is None else tuple(variable.shape)
  found = None if array is None else tuple(array.shape)
  if wanted != found:
    raise errors.InputError(
      f"weights of this architecture, {name} {wanted or 'not among them'}",
      f"another one, {found or 'without it'}",
      path,
    )
  if not np.issubdtype(array.dtype, np.floating):
    raise errors.InputError(f"numbers as {name}", str(array.dtype), path)
  if not np.isfinite(array).all():
    raise errors.InputError(f"finite numbers as {name}", "others", path)


def _variables(model):
  """Returns the variables by a name that does not depend on the model's."""
  named = {}
  for part, layer in (
    ("backbone", model.backbone),
    ("attention", model.attention),
  ):
    for variable in layer.variables:
      path = variable.path.removeprefix(f"{layer.name}/")
      named[f"{part}/{path}"] = variable
  return named
