"""What is told how a run goes: summaries, lines, diagnoses are observers."""

import contextlib
import dataclasses
import json
import math
import os

import keras
import tensorflow as tf
from absl import logging

from delf.base import concurrency, errors, files
from delf.formats import checkpoints
from delf.learning import delg_steps, loop
from delf.networks import layer_paths, model_checkpoints
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.records import photo_list, stream, tfrecord


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run works with, for those who watch it.

  Attributes:
    settings: settings.Settings.
    model: delf_model.Delf, in training.
    source: data_source.Source, or one with its functions.
    step: Steps made before.
    train_logs: Folder of the TensorBoard files.
  """

  settings: object
  model: object
  source: object
  step: int
  train_logs: str


@dataclasses.dataclass(frozen=True)
class Batch:
  """What a step has seen and found; arrays over all devices.

  Attributes:
    images: float32 [B, H, W, 3], normalised.
    labels: int64 [B].
    guesses: dict of "desc" and "attn" to int64 [B], the likeliest classes.
    attention: float32 [B, H', W', 1].
    sparsity: dict of tag to float, shares of zeros in the feature maps.
  """

  images: object
  labels: object
  guesses: dict
  attention: object
  sparsity: dict


class Observer:
  """Does nothing of what it is told; others override what they want."""

  def start(self, run):
    """Is told that a run starts, or goes on.

    Args:
      run: Run.
    """

  def wants(self, step):
    """Returns whether `on_step` is to get a batch after this many steps."""
    return False

  def on_step(self, step, metrics, batch):
    """Is told of a step.

    Args:
      step: Steps made.
      metrics: dict of TensorBoard tag to float.
      batch: Batch, or None if no observer wants it.
    """

  def on_validation(self, step, metrics):
    """Is told of a validation; `metrics` is a dict of tag to float."""

  def on_save(self, step, path):
    """Is told that a checkpoint of prefix `path` is written."""

  def close(self):
    """Lets go of what it holds: the run has ended, or an error has ended it.

    It is called however a run ends, even if `start` has raised.
    """


class Log(Observer):
  """Logs a line now and then."""

  def __init__(self, every):
    """Creates it; a line every so many steps."""
    self._every = every

  def on_step(self, step, metrics, batch):
    """Logs the metrics of some steps."""
    if step % self._every == 0:
      logging.info("step %d: %s", step, _words(metrics))

  def on_validation(self, step, metrics):
    """Logs the metrics."""
    logging.info("validation at step %d: %s", step, _words(metrics))


def _words(metrics):
  return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


class Source:
  """Photos and labels as the data set of Google Landmarks has them."""

  def __init__(self, data, seed):
    """Looks for the files.

    Args:
      data: settings.Data.
      seed: Of order and augmentation.

    Raises:
      InputError: If there are none, or if they are of another label space.
    """
    self._data, self._seed = data, seed
    _find(data.train_file_pattern, "training")
    if data.validation_file_pattern:
      _find(
        data.validation_file_pattern,
        'validation, or "" to train without validation',
      )
    _check_classes(data)

  def training(self, start_batch=0):
    """Returns batches without end.

    Args:
      start_batch: How many are left out.

    Returns:
      tf.data.Dataset of (float32 [B, S, S, 3], int64 [B]); the same for the
      same files, seed, batch size and start.
    """
    return self._create(
      self._data.train_file_pattern,
      augmentation=self._data.use_augmentation,
      start_batch=start_batch,
    )

  def validation(self):
    """Returns the batches of one pass, as `training` does, or None."""
    if not self._data.validation_file_pattern:
      return None
    return self._create(
      self._data.validation_file_pattern, augmentation=False, repeat=False
    )

  def identities(self, number):
    """Returns the ids of the photos of a training batch, list of str."""
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


def classes_beside(pattern):
  """Returns the number of classes that lies beside TFRecords.

  Args:
    pattern: Pattern of the TFRecords.

  Raises:
    InputError: If there is no `labels.json`, or a damaged one.
  """
  labels = photo_list.read_labels_beside(pattern)
  if labels is None:
    raise errors.InputError(
      f"{photo_list.NAME} beside the TFRecords",
      "none",
      os.path.dirname(pattern),
    )
  return labels.num_classes


def _check_classes(data):
  labels = photo_list.read_labels_beside(data.train_file_pattern)
  if labels is not None and labels.num_classes != data.num_classes:
    raise errors.InputError(
      f"TFRecords of {data.num_classes} classes",
      f"{labels.num_classes} (in {photo_list.NAME}); give the number of "
      "classes, or 0 for theirs",
      os.path.dirname(data.train_file_pattern),
    )


def _find(pattern, purpose):
  if not tf.io.gfile.glob(pattern):
    raise errors.InputError(f"TFRecords for {purpose}", "none", pattern)


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
      model=model_checkpoints.trackables(model),
      optimizer=optimizer.trackables(),
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
      model_checkpoints.load_weights(self._model, prefix)
      values = self._optimizer_values(prefix)
    except errors.InputError as error:
      if "TensorFlow checkpoint" in error.expected:
        raise _DamagedError(*error.args) from None
      raise
    for variable, value in values:
      variable.assign(value)

  def _optimizer_values(self, prefix):
    """Returns pairs of variable and value."""
    reader, _ = checkpoints.open_reader(prefix)
    shapes = reader.get_variable_to_shape_map()
    values = []
    wrong = []
    with checkpoints.reading(prefix):
      for path, variable in self._optimizer.by_key().items():
        key = path + checkpoints.SUFFIX
        if shapes.get(key) != list(variable.shape):
          wrong.append(f"{path} {shapes.get(key, 'missing')}")
          continue
        value = reader.get_tensor(key)
        values.append((variable, value.astype(variable.dtype.as_numpy_dtype)))
    if wrong:
      raise errors.InputError(
        f"the optimiser of {self._model.name}",
        layer_paths.listed(wrong),
        prefix,
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
        with checkpoints.writing("the checkpoint", prefix):
          self._newest = self._manager.save(checkpoint_number=step)
      model_checkpoints.save_weights(self._model, self.weights)
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


@dataclasses.dataclass(frozen=True)
class Report:
  """How a run ended.

  Attributes:
    step: Steps made, over all runs that went on from each other.
    metrics: dict of tag to float, of the last step (empty if there was none).
    signal: Number of the signal that ended it, or None.
    checkpoint: Prefix of the newest checkpoint.
    weights: Prefix of the model's weights, for exporters.
  """

  step: int
  metrics: dict
  signal: int | None
  checkpoint: str | None
  weights: str


def fit(settings, watching=None, source=None):
  """Trains a model, from where an earlier run of the folder stopped.

  A run that was stopped and goes on equals one that was not, to the last bit,
  where the machine computes alike each time: the checkpoint holds model,
  momenta and step, and the batch follows from the step (`run_files`).

  Args:
    settings: settings.Settings.
    watching: list of observers.Observer, or None for one that logs.
    source: data_source.Source, or one with its functions; None for TFRecords.

  Returns:
    Report.

  Raises:
    FileNotFoundError: If there are no weights to start from.
    InputError: If settings or data are not what they can be, if the folder
      holds a checkpoint of another model, or if a loss is no number; the last
      checkpoint is then the good one.
    OSError: If a checkpoint cannot be written.
  """
  settings.check()
  if source is None:
    source = Source(settings.data, settings.learning.seed)
  if watching is None:
    watching = [Log(settings.reporting.report_every)]
  keras.utils.set_random_seed(settings.learning.seed)
  strategy = loop.strategy(settings.execution)
  run = _Run(settings, delg_steps.Stepper(settings, strategy), watching, source)
  # Observers draw batches of their own.
  with googlelandmarks.clear_errors(), contextlib.ExitStack() as closing:
    run.begin(closing)
    with concurrency.stop_on_signals() as stop:
      run.go_on(stop)
  return run.report(stop.signal)


class _Run:
  def __init__(self, settings, stepper, watching, source):
    self._settings, self._stepper = settings, stepper
    self._watching, self._source = watching, source
    self._files = RunFiles(settings.logdir, stepper.model, stepper.optimizer)
    self._metrics, self._saved, self._saved_step = {}, None, None

  def begin(self, closing):
    """Goes on from the newest checkpoint, or starts.

    Args:
      closing: contextlib.ExitStack that closes the observers in the end.
    """
    self._files.remove_leftovers()
    found = self._files.resume()
    differing = self._files.settings_that_differ(self._settings)
    if found is None:
      delg_steps.start(self._stepper.model, self._settings.network)
    else:
      logging.info("goes on from %s, step %d", found, self._stepper.step)
      for words in differing:
        logging.warning("not as the run began: %s", words)
      self._saved = found
    about = Run(
      self._settings,
      self._stepper.model,
      self._source,
      self._stepper.step,
      self._files.train_logs,
    )
    for observer in self._watching:
      closing.callback(observer.close)
      observer.start(about)

  def go_on(self, stop):
    """Makes steps until it is done or stopped."""
    step, last = self._stepper.step, self._settings.learning.max_iters
    reporting = self._settings.reporting
    if step < last:
      dataset = self._source.training(start_batch=step)
      batches = iter(self._stepper.distribute(dataset))
    while step < last and stop.signal is None:
      self._step(step, batches)
      step += 1
      if step % reporting.save_every == 0:
        self._save(step)
      if step % reporting.validate_every == 0:
        self._validate(step)
    # A run that makes no step may be one that was killed before its weights
    # were written.
    if self._saved_step != step:
      self._save(step)

  def report(self, signal):
    """Returns the Report."""
    return Report(
      self._stepper.step,
      self._metrics,
      signal,
      self._saved,
      self._files.weights,
    )

  def _tell(self, what, *arguments):
    for observer in self._watching:
      getattr(observer, what)(*arguments)

  def _step(self, step, batches):
    images, labels = self._next(batches, step)
    look = any(observer.wants(step + 1) for observer in self._watching)
    metrics, outputs = self._stepper.train(images, labels, look)
    for name in (delg_steps.TOTAL, delg_steps.GRADIENT_NORM):
      if not math.isfinite(metrics[name]):
        raise self._diverged(step, name, metrics[name])
    self._metrics = metrics
    batch = Batch(**outputs()) if look else None
    self._tell("on_step", step + 1, metrics, batch)

  def _diverged(self, step, name, value):
    """Returns the error of a step from whose batch something is no number."""
    parts = ", ".join(
      f"{n} {v:g}" for n, v in self._metrics.items() if n.startswith("loss")
    )
    photos = ""
    if hasattr(self._source, "identities"):
      photos = f" (photos {layer_paths.listed(self._source.identities(step))})"
    kept = "no checkpoint yet"
    if self._saved:
      kept = f"the last good one is {self._saved}"
    return errors.InputError(
      f"{name} that is a number in step {step + 1}",
      f"{value:g} for batch {step} of seed "
      f"{self._settings.learning.seed}{photos}, after {parts or 'no step'}; "
      f"{kept}",
      self._settings.logdir,
    )

  @staticmethod
  def _next(batches, step):
    try:
      return next(batches)
    except StopIteration:
      raise errors.InputError("photos without end", f"{step} batches") from None

  def _save(self, step):
    if not self._stepper.is_finite():
      raise self._diverged(step - 1, "weights, each", math.nan)
    self._saved, self._saved_step = self._files.save(step), step
    self._tell("on_save", step, self._saved)

  def _validate(self, step):
    dataset = self._source.validation()
    if dataset is None:
      return
    data = self._settings.data
    counts = {"desc": 0, "attn": 0, "number": 0}
    most = max(1, data.validation_images // data.batch_size)
    for images, labels in self._stepper.distribute(dataset.take(most)):
      for name, count in self._stepper.validate(images, labels).items():
        counts[name] += count
    number = counts.pop("number")
    if number:
      metrics = {f"validation/{n}": c / number for n, c in counts.items()}
      self._tell("on_validation", step, metrics)
