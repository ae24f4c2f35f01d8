"""Supervised training of DELF and DELG on labelled photos."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from delf.base import errors, files
from delf.formats import checkpoints
from delf.learning import delg_steps, loop
from delf.learning.delg_settings import Data, Settings
from delf.networks import backbones, model_checkpoints
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.python.training.model import delf_model
from delf.records import photo_list, stream, tfrecord

_CHECKPOINTS = "delf_tf2-ckpt"
_SETTINGS = "settings.json"
# Number of newest checkpoints kept; of older ones, one each three hours.
_KEPT = 10
_KEPT_HOURS = 3
# Groups of settings on which the result of a step depends.
_DECIDING = ("data", "learning")


class Source:
  """Labelled photos in TFRecords, such as those of Google Landmarks."""

  def __init__(self, data: Data, seed: int):
    """Check that the files exist; `seed` sets order and augmentation."""
    self._data, self._seed = data, seed
    training = data.train_file_pattern
    if not tf.io.gfile.glob(training):
      problem = "no TFRecords for training match this pattern"
      raise errors.InputError(problem, path=training)
    validation = data.validation_file_pattern
    if validation and not tf.io.gfile.glob(validation):
      problem = "no TFRecords for validation match this pattern"
      message = f'{problem}: give "" to train without validation'
      raise errors.InputError(message, path=validation)
    labels = photo_list.read_labels_beside(training)
    if labels is not None and len(labels.names) != data.num_classes:
      raise errors.InputError(
        f"{photo_list.NAME} has {len(labels.names)} classes, not "
        f"{data.num_classes}: give --num_classes, or 0 for the number in it",
        path=os.path.dirname(training),
      )

  def training(self, start_batch: int = 0) -> tf.data.Dataset:
    """Return endless batches: float32 [B, S, S, 3] and int64 [B].

    The order depends only on the files, seed, batch size and start.
    """
    return self._create(
      self._data.train_file_pattern,
      augmentation=self._data.use_augmentation,
      start_batch=start_batch,
    )

  def validation(self) -> tf.data.Dataset | None:
    """Return the validation batches of one pass, or None without validation."""
    if not self._data.validation_file_pattern:
      return None
    return self._create(
      self._data.validation_file_pattern, augmentation=False, repeat=False
    )

  def identities(self, number: int) -> list[str]:
    """Return the ids of the photos in training batch `number`."""
    options = stream.Options(
      batch_size=self._data.batch_size, seed=self._seed, repeat=True
    )
    records = tfrecord.RecordFiles(self._data.train_file_pattern)
    return stream.Stream(records, options).identities(number)

  def _create(self, pattern, **options):
    return googlelandmarks.CreateDataset(
      pattern,
      image_size=self._data.image_size,
      batch_size=self._data.batch_size,
      seed=self._seed,
      num_classes=self._data.num_classes,
      **options,
    )


def classes_beside(pattern: str) -> int:
  """Return the number of classes in `labels.json` beside TFRecords."""
  labels = photo_list.read_labels_beside(pattern)
  if labels is None:
    problem = f"there is no {photo_list.NAME} beside the TFRecords"
    raise errors.InputError(problem, path=os.path.dirname(pattern))
  return len(labels.names)


class RunFiles:
  """Checkpoints, settings and weights (with the prefix `weights`) of a run."""

  def __init__(
    self,
    logdir: str | os.PathLike,
    model: delf_model.Delf,
    optimizer: delg_steps.Momentum,
  ):
    """Create the folder."""
    self._logdir = os.fspath(logdir)
    self._model, self._optimizer = model, optimizer
    self._folder = os.path.join(self._logdir, _CHECKPOINTS)
    self.weights = os.path.join(self._logdir, "delf_weights")
    tf.io.gfile.makedirs(self._folder)
    checkpoint = tf.train.Checkpoint(
      model=model_checkpoints.trackables(model),
      optimizer=optimizer.trackables(),
    )
    self._manager = tf.train.CheckpointManager(
      checkpoint, self._folder, _KEPT, _KEPT_HOURS
    )
    # Read or written by this object, and so known to be whole.
    self._newest: str | None = None

  def remove_leftovers(self) -> None:
    """Remove incomplete files of a run that was killed while writing."""
    for name in tf.io.gfile.listdir(self._folder):
      path = os.path.join(self._folder, name.rstrip("/"))
      if path.endswith("_temp"):
        tf.io.gfile.rmtree(path)
      elif ".tempstate" in name or ".data-" in name:
        prefix = path.partition(".data-")[0]
        if not tf.io.gfile.exists(f"{prefix}.index"):
          tf.io.gfile.remove(path)

  def resume(self) -> str | None:
    """Restore the newest undamaged checkpoint, and return its prefix.

    Raises InputError if it is of another model, or all are damaged.
    """
    problem = ""
    for prefix in reversed(self._manager.checkpoints):
      try:
        model_checkpoints.load_weights(self._model, prefix)
        for variable, value in self._optimizer_values(prefix):
          variable.assign(value)
      except (checkpoints.DamagedError, FileNotFoundError) as error:
        problem = errors.one_line(error)
        logging.warning("skipped: %s", problem)
        continue
      self._newest = prefix
      return prefix
    if problem:
      problem = f"all checkpoints are damaged; the oldest one: {problem}"
      raise errors.InputError(problem, path=self._folder)
    return None

  def _optimizer_values(self, prefix):
    """Return pairs of variable and value."""
    reader, _ = checkpoints.open_reader(prefix)
    shapes = reader.get_variable_to_shape_map()
    values, wrong = [], []
    with checkpoints.reading(prefix):
      for path, variable in self._optimizer.by_key().items():
        key = path + checkpoints.SUFFIX
        if shapes.get(key) != list(variable.shape):
          wrong.append(f"{path} {shapes.get(key, 'missing')}")
          continue
        value = reader.get_tensor(key)
        values.append((variable, value.astype(variable.dtype.as_numpy_dtype)))
    if wrong:
      problem = f"the optimizer's state does not fit {self._model.name}"
      message = f"{problem}: {backbones.listed(wrong)}"
      raise errors.InputError(message, path=prefix)
    return values

  def save(self, step: int) -> str:
    """Write the weights and the checkpoint of a step; return its prefix."""
    prefix = os.path.join(self._folder, f"ckpt-{step}")
    try:
      if self._newest != prefix:
        with checkpoints.writing("the checkpoint", prefix):
          self._newest = self._manager.save(checkpoint_number=step)
      model_checkpoints.save_weights(self._model, self.weights)
    except OSError:
      # An incomplete checkpoint would fill the rest of the disk.
      self.remove_leftovers()
      raise
    return prefix

  def changed_settings(self, settings: Settings) -> list[str]:
    """Write `settings.json`; describe the changes that affect the result."""
    path = os.path.join(self._logdir, _SETTINGS)
    text = settings.as_json()
    before = {}
    if tf.io.gfile.exists(path):
      try:
        before = json.loads(files.read_bytes(path))
      except ValueError:
        logging.warning("%s: not the settings of a run; replaced", path)
    now = json.loads(text)
    files.write_bytes(path, text.encode())
    return [
      f"{name} was {old}, is {now[group].get(name)}"
      for group in _DECIDING
      for name, old in before.get(group, {}).items()
      if now[group].get(name) != old
    ]


@dataclasses.dataclass(frozen=True)
class Report:
  """Result of a run."""

  step: int  # Steps made, in this run and the runs that it resumes.
  metrics: dict[str, float]  # Of the last step; empty without steps.
  signal: int | None  # Number of the signal that stopped the run.
  checkpoint: str | None  # Prefix of the newest checkpoint.
  weights: str  # Prefix of the model's weights, for exporters.


def fit(
  settings: Settings,
  observers: Sequence[loop.Observer] | None = None,
  source: Any = None,
) -> Report:
  """Train a model, from the newest checkpoint in the folder of the run, if any.

  A run that is stopped and resumed gives the same result as an uninterrupted
  one, bit by bit where the machine is deterministic: a checkpoint has model,
  momenta and step, and the step determines the batch.

  The default observer is a line of progress; the default source is a `Source`
  of the settings. Another one needs the methods `training` and `validation`.

  Raises:
    InputError: If settings or data are out of range, the folder holds a
      checkpoint of another model, or a loss is not finite.
  """
  settings.check()
  budget = loop.Budget(steps=settings.learning.max_iters)
  reporting = settings.reporting
  if source is None:
    source = Source(settings.data, settings.learning.seed)
  if observers is None:
    observers = [loop.Live(budget, reporting.report_every)]
  keras.utils.set_random_seed(settings.learning.seed)
  strategy = delg_steps.strategy(settings.execution)
  stepper = delg_steps.Stepper(settings, strategy)
  training = _Training(settings, stepper, observers, source)
  # Observers draw batches, too.
  with googlelandmarks.clear_errors():
    save_when = loop.Every(steps=reporting.save_every)
    measure_when = loop.Every(steps=reporting.validate_every)
    signal = loop.run(training, budget, observers, save_when, measure_when)
  newest = training.checkpoint, training.weights
  return Report(stepper.step, training.metrics, signal, *newest)


class _Training(loop.Learner):
  """The learner of a run; observers read its public attributes.

  `details` are a delg_steps.Batch if an observer needs them.
  """

  checkpoint: str | None = None
  checked = (delg_steps.TOTAL, delg_steps.GRADIENT_NORM)
  rate_flag = "--initial_lr"

  def __init__(self, settings, stepper, observers, source):
    self.settings, self.source, self.model = settings, source, stepper.model
    self._stepper, self._observers = stepper, observers
    self._files = RunFiles(settings.logdir, stepper.model, stepper.optimizer)
    self.train_logs = os.path.join(settings.logdir, "train_logs")
    self.weights = self._files.weights
    self.metrics, self._before = {}, {}

  def resume(self):
    self._files.remove_leftovers()
    self.checkpoint = self._files.resume()
    changed = self._files.changed_settings(self.settings)
    if self.checkpoint is None:
      delg_steps.load_initial_weights(self.model, self.settings.network)
      return
    self.step = self._stepper.step
    logging.info("resumes from %s, step %d", self.checkpoint, self.step)
    for change in changed:
      logging.warning("a setting changed since the run began: %s", change)

  def batches(self):
    dataset = self.source.training(start_batch=self.step)
    return self._stepper.distribute(dataset)

  def learn(self, batch, spent):
    look = any(each.needs_details(self.step + 1) for each in self._observers)
    self._before = self.metrics
    self.metrics, outputs = self._stepper.train(*batch, look)
    self.details = outputs() if look else None
    self.step += 1
    return self.metrics

  def save(self):
    if not self._stepper.is_finite():
      raise loop.diverged(self, {"weights": math.nan}, self.describe())
    return self._files.save(self.step)

  def measure(self):
    dataset = self.source.validation()
    if dataset is None:
      return {}
    data = self.settings.data
    counts = {"desc": 0, "attn": 0, "number": 0}
    most = max(1, data.validation_images // data.batch_size)
    for images, labels in self._stepper.distribute(dataset.take(most)):
      for name, count in self._stepper.validate(images, labels).items():
        counts[name] += count
    number = counts.pop("number")
    return {f"validation/{n}": c / number for n, c in counts.items() if number}

  def describe(self, batch=None):
    number = self.step - 1
    photos = ""
    if hasattr(self.source, "identities"):
      names = backbones.listed(self.source.identities(number))
      photos = f" (photos {names})"
    losses = ", ".join(
      f"{n} {v:g}" for n, v in self._before.items() if n.startswith("loss")
    )
    seed = self.settings.learning.seed
    return f"batch {number} of seed {seed}{photos}, after {losses or 'no step'}"
