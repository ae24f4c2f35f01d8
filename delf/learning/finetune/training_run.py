"""Trains on photos: from the photos to a model, measured and described."""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import time

import numpy as np

from delf.base import concurrency, errors, files, progress
from delf.learning.finetune import data, finishing, measuring, records


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
  from delf.inference import zoo

  if start == records.SCRATCH:
    return None
  path = pathlib.Path(start)
  if not path.exists() and start == zoo.EMBEDDED:
    path = pathlib.Path(zoo.resolve(start))
  if path.is_dir():
    return _of_folder(path)
  if path.is_file():
    return path
  if zoo.find(start) is not None:
    raise errors.InputError(
      f"a model of the compact architecture ({zoo.EMBEDDED}, or one that "
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

  from delf.learning import compact_training
  from delf.python.training.model import delg_model

  if weights is not None and weights.name != compact_training.NAME:
    return compact_training.load_export_compact(weights)
  keras.utils.set_random_seed(seed)
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  if weights is not None:
    compact_training.load(model, weights)
  return model


CHECKPOINT, CURVE = "checkpoint.npz", "curve.json"

# Seconds from one checkpoint to the next; what is lost when a run is killed.
_SAVE_INTERVAL = 60.0

# Rows of the learning curve, over the whole budget.
_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Budget:
  """How long to learn: steps, or seconds. The other one is None."""

  steps: int | None = None
  seconds: float | None = None

  def share(self, trainer):
    """Returns how much of it is spent, 0 to 1 or a little over."""
    if self.steps is not None:
      return trainer.step / max(1, self.steps)
    return trainer.seconds / max(1e-9, self.seconds)


class Stopped(Exception):  # noqa: N818 - it is no error
  """A signal ended the learning, after a checkpoint was written.

  Attributes:
    number: Of the signal.
  """

  def __init__(self, number, step):
    super().__init__(f"stopped at step {step}; the same command goes on there")
    self.number = number


def learn(trainer, terms, draw, budget, folder, check):
  """Learns until the budget is spent, from the checkpoint if there is one.

  Args:
    trainer: self_supervised.trainer.Trainer.
    terms: Names of what it returns of a step.
    draw: Function from the number of a step, from 0 on, to its data.Batch.
    budget: Budget.
    folder: pathlib.Path for checkpoint and curve.
    check: Function of no arguments: a measure of held-out photos, or NaN.

  Returns:
    list of dict, rows of the learning curve: step, seconds, rate of steps, mean
    of each of the terms since the row before, and held_out.

  Raises:
    Stopped: After SIGINT or SIGTERM.
    InputError: If a loss is not finite; the last checkpoint stays.
  """
  trainer.resume(folder / CHECKPOINT)
  curve = _Curve(folder / CURVE, trainer, terms, check)
  total = budget.steps or budget.seconds
  bar = progress.spend("training", total)
  saved = time.monotonic()
  with (
    bar,
    concurrency.stop_on_signals() as stop,
    contextlib.closing(_ahead(draw, trainer.step)) as batches,
  ):
    spent = budget.share(trainer)
    bar.update(min(1.0, spent) * total)
    while spent < 1:
      begin = time.monotonic()
      batch = next(batches)
      values = np.asarray(trainer.learn(batch, spent), float)
      _check_finite(values, batch, trainer, folder)
      trainer.seconds += time.monotonic() - begin
      before, spent = spent, budget.share(trainer)
      bar.update((min(1.0, spent) - min(1.0, before)) * total)
      curve.add(values, spent)
      bar.set_postfix_str(curve.words())
      if stop.signal or spent >= 1 or time.monotonic() - saved > _SAVE_INTERVAL:
        saved = time.monotonic()
        _save(trainer, curve, folder)
      if stop.signal and spent < 1:
        raise Stopped(stop.signal, trainer.step)
  return curve.rows


def _save(trainer, curve, folder):
  # The curve first: rows after the checkpoint are left out when it is read.
  curve.save()
  trainer.save(folder / CHECKPOINT)


def _check_finite(values, batch, trainer, folder):
  if np.isfinite(values).all():
    return
  kept = "none was written"
  if (folder / CHECKPOINT).exists():
    kept = f"the last one is {folder / CHECKPOINT}"
  raise errors.InputError(
    "finite losses (a lower --rate may help)",
    f"{', '.join(f'{value:g}' for value in values)} at step {trainer.step}, "
    f"batch of places {', '.join(map(str, batch.pools))}; checkpoint: {kept}",
  )


class _Curve:
  """Rows of the learning curve, and what is new since the last."""

  def __init__(self, path, trainer, terms, check):
    self.rows = []
    self._path, self._trainer, self._check = path, trainer, check
    self._terms = terms
    self._values, self._recent = [], collections.deque(maxlen=20)
    if path.exists() and trainer.step:
      rows = json.loads(files.read_bytes(path))
      self.rows = [row for row in rows if row["step"] <= trainer.step]
    self._next = self.rows[-1]["spent"] + 1 / _ROWS if self.rows else 0.0
    if not self.rows:
      self._add_row([np.nan] * len(self._terms), 0.0)
    self._times = collections.deque([time.monotonic()], maxlen=50)

  def add(self, values, spent):
    self._values.append(values)
    self._recent.append(values)
    self._times.append(time.monotonic())
    if spent >= self._next or spent >= 1:
      self._add_row(np.mean(self._values, axis=0), spent)
      self._values = []

  def _add_row(self, values, spent):
    row = {
      "step": self._trainer.step,
      "seconds": round(self._trainer.seconds, 2),
      "spent": spent,
      "held_out": float(self._check()),
    }
    values = {
      name: float(v) for name, v in zip(self._terms, values, strict=True)
    }
    # JSON has no NaN.
    row |= {name: v for name, v in values.items() if np.isfinite(v)}
    self.rows.append(row)
    self._next = spent + 1 / _ROWS

  def words(self):
    """Returns words for the last steps."""
    passed = self._times[-1] - self._times[0]
    rate = (len(self._times) - 1) / max(passed, 1e-9)
    means = np.mean(self._recent, axis=0)
    values = " ".join(
      f"{name} {value:.3f}"
      for name, value in zip(self._terms, means, strict=True)
    )
    return f"step {self._trainer.step}, {rate:.1f} steps/s, {values}"

  def save(self):
    files.write_bytes(self._path, json.dumps(self.rows).encode())


def _ahead(draw, start):
  """Returns the batches from step `start` on, made by threads ahead of time."""
  workers = max(1, concurrency.core_count() // 2)
  steps = itertools.count(start)
  return concurrency.map_ahead(draw, steps, workers, workers + 2)


# The folder of an unfinished run, after the name of the model.
_UNFINISHED = ".unfinished"


class Clock:
  """Seconds by phase."""

  def __init__(self):
    self.seconds = {}

  @contextlib.contextmanager
  def phase(self, name):
    """Counts the time of a block."""
    begin = time.monotonic()
    try:
      yield
    finally:
      passed = time.monotonic() - begin
      self.seconds[name] = self.seconds.get(name, 0.0) + passed


def train(given, out, options, overwrite=False, command=()):
  """Trains on photos.

  What is unfinished lies in `<out>.unfinished`; the same call goes on there.

  Args:
    given: Folders, patterns, lists and photos.
    out: Folder of the model to be.
    options: TrainOptions.
    overwrite: Whether a finished model at `out`, and an unfinished one of other
      settings, are replaced.
    command: Words of the command, for the model card.

  Returns:
    report.TrainReport.

  Raises:
    FileNotFoundError: If a photo or the model to begin with is not there.
    InputError: If something that is given is not right; it says what.
    learning.Stopped: After SIGINT or SIGTERM while it learnt.
  """
  weights = check(options.start)
  found = data.find(given, options.labels)
  if options.batch is not None:
    _check_batch(options.batch, len(found.paths), "photos")
  settings = records.settings_of(found, options, weights)
  out = pathlib.Path(out)
  data.refuse_inside(given, out)
  folder = out.with_name(f"{out.name}{_UNFINISHED}")
  records.refuse_other_things(folder)
  if records.is_leftover(
    out, folder, f"{finishing.FOLDERS[finishing.AFTER]}.json"
  ):
    shutil.rmtree(folder, ignore_errors=True)
  records.refuse_finished(out, settings, overwrite)
  told = records.Told(options, settings, tuple(command))
  with _working(folder, settings, overwrite):
    outcome = _Run(found, folder, options, weights).run()
    made = finishing.finish(outcome, folder, out, told, overwrite)
  shutil.rmtree(folder, ignore_errors=True)
  return made


def _check_batch(batch, number, what):
  """Raises InputError if a batch has more pairs than there are photos."""
  if batch > number:
    raise errors.InputError(
      f"a batch of at most as many pairs as there are {what} ({number})", batch
    )


@contextlib.contextmanager
def _working(folder, settings, overwrite):
  """Claims the folder of the unfinished run for this run."""
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_folder(folder):
    try:
      records.claim(folder, settings)
    except errors.InputError:
      # Before the first step, what is lost is but the reading of photos.
      if not overwrite and (folder / CHECKPOINT).exists():
        raise
      for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
      records.claim(folder, settings)
    yield


class _Run:
  """One training, phase by phase."""

  def __init__(self, found, folder, options, weights):
    self._sources, self._folder = found, folder
    self._options, self._weights = options, weights
    self._clock = Clock()

  def run(self):
    """Returns finishing.Outcome."""
    clock = self._clock
    self._model()  # Weights that do not fit are an error at once.
    with clock.phase("photos and pairs"):
      collected = data.collect(
        self._sources, self._folder, self._options, measuring.describe
      )
    if self._options.batch is not None:
      pools = {photo.pool for photo in collected.training.photos}
      _check_batch(self._options.batch, len(pools), "places")
    checks = self._checks(collected)
    scores = {
      finishing.BEFORE: self._measured(finishing.BEFORE, self._model, checks)
    }
    if collected.classes:
      scores[finishing.ALONE] = self._measured(
        finishing.ALONE,
        lambda: self._with_head(self._model(), collected)[0],
        (scores[finishing.BEFORE], checks[1]),
      )
    model, curve, seconds = self._learn(self._model(), collected)
    # Of all runs that went on from each other.
    clock.seconds["learning"] = seconds
    model, head = self._with_head(model, collected)
    scores[finishing.AFTER] = self._measured(
      finishing.AFTER, lambda: model, checks
    )
    singles = sum(n < 3 for n in self._sources.classes().values())
    return finishing.Outcome(
      singles, collected, scores, curve, head, clock.seconds
    )

  def _model(self):
    return make(self._weights, self._options.seed)

  def _with_head(self, model, collected):
    with self._clock.phase("global descriptor"):
      words = finishing.fit_head(model.backbone, collected, self._options)
    return model, words

  def _checks(self, collected):
    """Returns what `measuring.measure` takes: pairs, search."""
    held_out, training = collected.held_out, collected.training
    seed = self._options.seed
    # At this size photos are looked at by the model's own scales.
    side = 320 if self._options.size >= 320 else self._options.size
    pairs = measuring.make(held_out.photos, held_out.pairs, side, seed)
    if not pairs.true:
      raise errors.InputError(
        "held-out photos that two views can be made of",
        f"{len(held_out.photos)} that are too narrow",
      )
    if not collected.classes:
      return pairs, None
    images = [p.image for p in (*held_out.photos, *training.photos)]
    labels = np.concatenate([held_out.labels, training.labels])
    asked = np.arange(len(images)) < len(held_out.photos)
    generator = np.random.default_rng((seed, 3))
    chosen = measuring.searched(generator, asked, labels)
    # In no class: each of its own.
    labels = np.where(labels < 0, -1 - np.arange(len(labels)), labels)
    search = ([images[i] for i in chosen], labels[chosen], asked[chosen])
    return pairs, search

  def _measured(self, name, make, checks):
    """Exports a model and measures it, unless that was done.

    Args:
      name: Of the model.
      make: Function of no arguments that returns it.
      checks: (PairSet, or Scores of a model with these local features; search).
    """
    from delf.formats import configs
    from delf.learning import compact_training

    folder = self._folder / finishing.FOLDERS[name]
    path = folder.with_suffix(".json")
    if not path.exists():
      model = make()
      with self._clock.phase("measuring"):
        compact_training.export(model, folder)
        config = configs.read_delf_config(folder / "config.pbtxt")
        scores, search = checks
        if isinstance(scores, measuring.PairSet):
          picture = folder / finishing.PICTURE
          scores = measuring.measure(config, scores, picture)
        if search is not None:
          scores = measuring.measure_search(config, scores, *search)
      data = json.dumps(dataclasses.asdict(scores)).encode()
      files.write_bytes(path, data)
    return measuring.Scores(**json.loads(files.read_bytes(path)))

  def _learn(self, model, collected):
    from delf.learning import compact_training, view_pairs

    options, side = self._options, collected.training
    schedule = compact_training.Schedule(
      minutes=options.minutes or 0.0, rate=options.highest_rate, warm_up=50
    )
    learner = compact_training.Trainer(
      model.backbone, model.attention, schedule, options.view
    )
    number = side.batch(options.batch)

    def draw(step):
      drawn = view_pairs.Options(
        pairs=number, side=options.view, seed=(options.seed, step)
      )
      return view_pairs.Source(side.photos, side.pairs, drawn).batch()

    seconds = None if options.minutes is None else 60 * options.minutes
    budget = Budget(options.steps, seconds)
    check = make_checking(
      learner, collected.held_out, options.view, options.seed
    )
    curve = learn(
      learner, compact_training.TERMS, draw, budget, self._folder, check
    )
    return model, curve, learner.seconds


_BATCHES, _PAIRS = 2, 4


def make_checking(learner, side, view, seed):
  """Returns a function that measures a model as it is.

  Args:
    learner: self_supervised.trainer.Trainer.
    side: collecting.Side of held-out photos.
    view: Pixels of a view's side.
    seed: Of the views.

  Returns:
    Function of no arguments: the share of points of fixed pairs of views that
    are each other's nearest.
  """
  from delf.learning import compact_training, view_pairs

  number = min(_PAIRS, side.batch())
  batches = [
    view_pairs.Source(
      side.photos,
      side.pairs,
      view_pairs.Options(pairs=number, side=view, seed=(seed, 2, i)),
    ).batch()
    for i in range(_BATCHES)
  ]
  place = compact_training.TERMS.index("found")

  def check():
    found = [learner.evaluate(batch)[place] for batch in batches]
    return float(np.mean(found))

  return check
