"""The model that a training begins with."""

import os
import pathlib

from delf.python import errors
from delf.python.pipelines.train import options


def check(start):
  """Refuses what no training can begin with, before anything heavy is loaded.

  Args:
    start: As `TrainOptions.start`.

  Returns:
    pathlib.Path of its file of weights, or None for "scratch".

  Raises:
    FileNotFoundError: If there is nothing at a path.
    InputError: If it is another kind of model.
  """
  from delf.python.inference import zoo, zoo_table

  if start == options.SCRATCH:
    return None
  path = pathlib.Path(start)
  if not path.exists() and start == zoo_table.EMBEDDED:
    path = pathlib.Path(zoo.resolve(start))
  if path.is_dir():
    return _of_folder(path)
  if path.is_file():
    return path
  if zoo.find(start) is not None:
    raise errors.InputError(
      f"a model of the compact architecture ({zoo_table.EMBEDDED}, or one that "
      "`delf train` has made)",
      f"{os.fspath(start)}, of another",
    )
  raise FileNotFoundError(
    f"{start}: expected a model to start from, found none"
  )


def _of_folder(folder):
  for name in ("weights.npz", "checkpoint.npz"):
    if (folder / name).exists():
      return folder / name
  raise errors.InputError(
    "a model with weights.npz, as `delf train` makes it",
    "one without",
    folder,
  )


def make(weights, seed):
  """Makes the model.

  Args:
    weights: As `check` returns it.
    seed: Of random weights.

  Returns:
    delg_model.Delg of the compact backbone.

  Raises:
    InputError: If the weights are of another architecture.
  """
  import keras

  from delf.python.training.model import delg_model
  from delf.python.training.self_supervised import export_compact, weights_file

  if weights is not None and weights.name != weights_file.NAME:
    return export_compact.load(weights)
  keras.utils.set_random_seed(seed)
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  if weights is not None:
    weights_file.load(model, weights)
  return model
