"""The files of a run: checkpoints that it goes on from, and weights.

`delf_tf2-ckpt/ckpt-STEP` hold all that a run goes on from: the model, momenta,
learning rate and step. What else decides the next step follows from the
settings (`settings.json`): the batch is that of the step in the seeded stream.
`delf_weights` holds the model alone, for exporters. A checkpoint counts once
`delf_tf2-ckpt/checkpoint` names it, which is written last.
"""

import json
import os

import tensorflow as tf
from absl import logging

from delf.python import checkpoint_io, errors, files
from delf.python.training.model import checkpoints, layer_tree

TRAIN_LOGS = "train_logs"
WEIGHTS = "delf_weights"
_FOLDER = "delf_tf2-ckpt"
_SETTINGS = "settings.json"

# How many checkpoints are kept, and one of each so many hours besides.
_KEPT = 10
_KEPT_HOURS = 3

# Settings without which the next step is another one.
_DECIDING = ("data", "learning")


class RunFiles:
  """Reads and writes the files of a run."""

  def __init__(self, logdir, model, optimizer):
    """Makes the folders.

    Args:
      logdir: Folder of the run.
      model: delf_model.Delf.
      optimizer: momentum.Momentum.
    """
    self._logdir = os.fspath(logdir)
    self._model, self._optimizer = model, optimizer
    self._folder = os.path.join(self._logdir, _FOLDER)
    self.train_logs = os.path.join(self._logdir, TRAIN_LOGS)
    self.weights = os.path.join(self._logdir, WEIGHTS)
    tf.io.gfile.makedirs(self._folder)
    self._checkpoint = tf.train.Checkpoint(
      model=checkpoints.trackables(model), optimizer=optimizer.trackables()
    )
    self._manager = tf.train.CheckpointManager(
      self._checkpoint,
      self._folder,
      max_to_keep=_KEPT,
      keep_checkpoint_every_n_hours=_KEPT_HOURS,
    )
    # Of what this object has read or written: it is known to be whole.
    self._newest = None

  def remove_leftovers(self):
    """Removes what a program left that was killed while it wrote."""
    for name in tf.io.gfile.listdir(self._folder):
      path = os.path.join(self._folder, name.rstrip("/"))
      if path.endswith("_temp"):
        tf.io.gfile.rmtree(path)
      elif ".tempstate" in name or ".data-" in name:
        prefix = path.partition(".data-")[0]
        if not tf.io.gfile.exists(f"{prefix}.index"):
          tf.io.gfile.remove(path)

  def resume(self):
    """Reads the newest checkpoint that is whole.

    Returns:
      str prefix of the checkpoint, or None if there is none.

    Raises:
      InputError: If it is of another model, or all are damaged.
    """
    problem = None
    for prefix in reversed(self._manager.checkpoints):
      try:
        self._read(prefix)
      except (_DamagedError, FileNotFoundError) as error:
        logging.warning("passed over: %s", errors.one_line(error))
        problem = error
        continue
      self._newest = prefix
      return prefix
    if problem is not None:
      raise errors.InputError(
        "a checkpoint that is whole", errors.one_line(problem), self._folder
      )
    return None

  def _read(self, prefix):
    """Gives model and optimiser what a checkpoint holds."""
    try:
      checkpoints.load_weights(self._model, prefix)
      values = self._optimizer_values(prefix)
    except errors.InputError as error:
      if "TensorFlow checkpoint" in error.expected:
        raise _DamagedError(*error.args) from None
      raise
    for variable, value in values:
      variable.assign(value)

  def _optimizer_values(self, prefix):
    """Returns pairs of variable and value."""
    reader, _ = checkpoint_io.open_reader(prefix)
    shapes = reader.get_variable_to_shape_map()
    values = []
    wrong = []
    with checkpoint_io.reading(prefix):
      for path, variable in self._optimizer.by_key().items():
        key = path + checkpoint_io.SUFFIX
        if shapes.get(key) != list(variable.shape):
          wrong.append(f"{path} {shapes.get(key, 'missing')}")
          continue
        value = reader.get_tensor(key)
        values.append((variable, value.astype(variable.dtype.as_numpy_dtype)))
    if wrong:
      raise errors.InputError(
        f"the optimiser of {self._model.name}", layer_tree.listed(wrong), prefix
      )
    return values

  def save(self, step):
    """Writes a checkpoint and the weights.

    Args:
      step: Steps made; the number of the checkpoint.

    Returns:
      str prefix of the checkpoint.

    Raises:
      OSError: If they cannot be written, as where the disk is full; what was
        written before is still there.
    """
    prefix = os.path.join(self._folder, f"ckpt-{step}")
    try:
      if self._newest != prefix:
        with checkpoint_io.writing("the checkpoint", prefix):
          self._newest = self._manager.save(checkpoint_number=step)
      checkpoints.save_weights(self._model, self.weights)
    except OSError:
      # Half a checkpoint would take what is left of a full disk.
      self.remove_leftovers()
      raise
    return prefix

  def settings_that_differ(self, settings):
    """Compares settings with those that the run began with, and stores them.

    Args:
      settings: settings.Settings.

    Returns:
      list of str, what makes the next step another one.
    """
    path = os.path.join(self._logdir, _SETTINGS)
    text = settings.as_json()
    before = {}
    if tf.io.gfile.exists(path):
      try:
        before = json.loads(files.read_bytes(path))
      except ValueError:
        logging.warning("%s: no settings, written anew", path)
    now = json.loads(text)
    files.write_bytes(path, text.encode())
    return [
      f"{name} {old} is {now[group].get(name)}"
      for group in _DECIDING
      for name, old in before.get(group, {}).items()
      if now[group].get(name) != old
    ]


class _DamagedError(ValueError):
  """A checkpoint that cannot be read."""
