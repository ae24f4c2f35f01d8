"""Where a run is, in one file, for it to go on as if never stopped."""

import dataclasses
import json
import math

import numpy as np

from delf.python import errors, files
from delf.python.training.model import checkpoints
from delf.python.training.self_supervised import array_file

FILE = "checkpoint.npz"
_BEST = "best"
_KIND = "a checkpoint of global training"
_TUPLES = ("qidxs", "pidxs", "nidxs")


@dataclasses.dataclass
class Place:
  """How far a run is.

  Attributes:
    epoch: Epochs that are over.
    batch: Batches of the next one that are over.
    distance: Average distance of its negatives when they were chosen.
    losses: Losses of its tuples so far.
    left_out: Tuples that could not be loaded, in all epochs.
    best_epoch: Epoch of the best network, from 1; 0 for none.
    best_score: Its score; lower is better.
    history: A dict of each epoch that is over.
  """

  epoch: int = 0
  batch: int = 0
  distance: float = 0.0
  losses: list = dataclasses.field(default_factory=list)
  left_out: int = 0
  best_epoch: int = 0
  best_score: float = math.inf
  history: list = dataclasses.field(default_factory=list)


def save(folder, place, data, learner):
  """Writes all that the rest of a run depends on, whole or not at all.

  Args:
    folder: pathlib.Path of the run.
    place: Place.
    data: tuples_dataset.TuplesDataset with the tuples of the epoch.
    learner: learning.Learner, just after an update.
  """
  arrays = {
    f"{i:04d}/{v.path}": np.asarray(v.value)
    for i, v in enumerate(learner.variables)
  }
  arrays |= {name: getattr(data, name) for name in _TUPLES}
  arrays["place"] = np.array(json.dumps(dataclasses.asdict(place)))
  with files.atomic_path(folder / FILE) as temporary:
    np.savez(temporary, **arrays)


def restore(folder, data, learner):
  """Reads what `save` wrote, if it is there.

  Args:
    folder: pathlib.Path of the run.
    data: tuples_dataset.TuplesDataset, which gets the tuples.
    learner: learning.Learner, which gets the variables.

  Returns:
    Place; that of a new run if there is no file.

  Raises:
    InputError: If it is another file, or of another network or data.
  """
  path = folder / FILE
  if not path.exists():
    return Place()
  arrays = array_file.read(path, _KIND, ["place", *_TUPLES])
  try:
    place = Place(**json.loads(str(arrays["place"])))
  except (TypeError, ValueError):
    raise errors.InputError(_KIND, "one of another version", path) from None
  stored = {
    name.partition("/")[0]: name for name in arrays if name[:1].isdigit()
  }
  variables, count = learner.variables, len(learner.net.variables)
  if len(stored) != len(variables):
    raise errors.InputError(
      f"{_KIND} of {len(variables)} variables", f"{len(stored)}", path
    )
  for i, variable in enumerate(variables):
    name = stored.get(f"{i:04d}", "nothing")
    # Names of layers, and the optimizer's, count up within a program.
    leaf = variable.path.rpartition("/")[2] if i < count else ""
    fits = name.endswith(leaf) and name in arrays
    if not fits or arrays[name].shape != tuple(variable.shape):
      raise errors.InputError(
        f"{variable.path} {tuple(variable.shape)}",
        f"{name} {arrays[name].shape if name in arrays else ''}".rstrip(),
        path,
      )
  data.set_tuples(*(arrays[name] for name in _TUPLES))
  for i, variable in enumerate(variables):
    variable.assign(arrays[stored[f"{i:04d}"]])
  return place


def save_best(folder, net, epoch):
  """Writes the weights of the best network so far, beside older ones.

  Args:
    folder: pathlib.Path of the run.
    net: GlobalFeatureNet.
    epoch: Its epoch, from 1.
  """
  checkpoints.save_weights(net, folder / f"{_BEST}-{epoch:04d}")


def drop_older(folder, epoch):
  """Deletes weights of epochs that are not the best any more."""
  for path in folder.glob(f"{_BEST}-*"):
    if not path.name.startswith(f"{_BEST}-{epoch:04d}."):
      path.unlink()


def best_path(folder):
  """Returns the prefix of the best weights of a run.

  Args:
    folder: pathlib.Path of the run.

  Raises:
    FileNotFoundError: If there are none yet.
  """
  found = sorted(folder.glob(f"{_BEST}-*.index"))
  if not found:
    raise FileNotFoundError(
      f"{folder}: expected the weights {_BEST}-*.index of a run, found none"
    )
  return found[-1].with_suffix("")
