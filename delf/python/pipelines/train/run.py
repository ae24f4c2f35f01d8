"""Trains on photos: from the photos to a model, measured and described."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time

import numpy as np

from delf.python import errors, files, folder_lock
from delf.python.pipelines.train import (
  collecting,
  finishing,
  learning,
  measuring,
  pair_sets,
  records,
  report,
  sources,
  start,
)

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
  weights = start.check(options.start)
  found = sources.find(given, options.labels)
  if options.batch is not None:
    _check_batch(options.batch, len(found.paths), "photos")
  settings = records.settings_of(found, options, weights)
  out = pathlib.Path(out)
  sources.refuse_inside(given, out)
  folder = out.with_name(f"{out.name}{_UNFINISHED}")
  records.refuse_other_things(folder)
  if records.is_leftover(
    out, folder, f"{finishing.FOLDERS[report.AFTER]}.json"
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
  with folder_lock.alone(folder):
    try:
      records.claim(folder, settings)
    except errors.InputError:
      # Before the first step, what is lost is but the reading of photos.
      if not overwrite and (folder / learning.CHECKPOINT).exists():
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
      collected = collecting.collect(
        self._sources, self._folder, self._options, measuring.describe
      )
    if self._options.batch is not None:
      pools = {photo.pool for photo in collected.training.photos}
      _check_batch(self._options.batch, len(pools), "places")
    checks = self._checks(collected)
    scores = {report.BEFORE: self._measured(report.BEFORE, self._model, checks)}
    if collected.classes:
      scores[report.ALONE] = self._measured(
        report.ALONE,
        lambda: self._with_head(self._model(), collected)[0],
        (scores[report.BEFORE], checks[1]),
      )
    model, curve, seconds = self._learn(self._model(), collected)
    # Of all runs that went on from each other.
    clock.seconds["learning"] = seconds
    model, head = self._with_head(model, collected)
    scores[report.AFTER] = self._measured(report.AFTER, lambda: model, checks)
    singles = sum(n < 3 for n in self._sources.classes().values())
    return finishing.Outcome(
      singles, collected, scores, curve, head, clock.seconds
    )

  def _model(self):
    return start.make(self._weights, self._options.seed)

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
    pairs = pair_sets.make(held_out.photos, held_out.pairs, side, seed)
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
    chosen = pair_sets.searched(generator, asked, labels)
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
    from delf.python import config_io
    from delf.python.training.self_supervised import export_compact

    folder = self._folder / finishing.FOLDERS[name]
    path = folder.with_suffix(".json")
    if not path.exists():
      model = make()
      with self._clock.phase("measuring"):
        export_compact.export(model, folder)
        config = config_io.read_delf_config(folder / "config.pbtxt")
        scores, search = checks
        if isinstance(scores, pair_sets.PairSet):
          picture = folder / finishing.PICTURE
          scores = measuring.measure(config, scores, picture)
        if search is not None:
          scores = measuring.measure_search(config, scores, *search)
      data = json.dumps(dataclasses.asdict(scores)).encode()
      files.write_bytes(path, data)
    return measuring.Scores(**json.loads(files.read_bytes(path)))

  def _learn(self, model, collected):
    from delf.python.pipelines.train import checking
    from delf.python.training.self_supervised import data, trainer

    options, side = self._options, collected.training
    schedule = trainer.Schedule(
      minutes=options.minutes or 0.0, rate=options.highest_rate, warm_up=50
    )
    learner = trainer.Trainer(
      model.backbone, model.attention, schedule, options.view
    )
    number = side.batch(options.batch)

    def draw(step):
      drawn = data.Options(
        pairs=number, side=options.view, seed=(options.seed, step)
      )
      return data.Source(side.photos, side.pairs, drawn).batch()

    seconds = None if options.minutes is None else 60 * options.minutes
    budget = learning.Budget(options.steps, seconds)
    check = checking.make(
      learner, collected.held_out, options.view, options.seed
    )
    curve = learning.learn(
      learner, trainer.TERMS, draw, budget, self._folder, check
    )
    return model, curve, learner.seconds
