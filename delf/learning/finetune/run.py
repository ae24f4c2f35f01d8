"""A training on one's own photos: options, run folder, record and report."""

import collections
import dataclasses
import datetime
import hashlib
import importlib.resources
import json
import os
import pathlib
import shlex
import shutil
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from delf.base import errors, files, manifest
from delf.evaluation import report_card
from delf.learning import loop
from delf.learning.finetune import data

# Start from random weights.
SCRATCH = "scratch"

# Names of the networks that are measured; a task may have more.
BEFORE, AFTER = "before", "after"
# What the card says where the first of them is kept.
NO_GAIN = (
  "**Training brought no gain on held-out photos: its weights are those that "
  "it began with.**"
)

CHECKPOINT, CURVE, RECORD = "checkpoint.npz", "curve.json", "training.json"
CARD = "MODEL_CARD.md"
_SETTINGS, _UNFINISHED = "settings.json", ".unfinished"
# Seconds between checkpoints: work that is lost when a run is killed.
_SAVE_SECONDS = 60.0
_ROWS = 40  # Of the learning curve, over the whole budget.
# Limits of `view_pairs.Options`, checked before photos are read.
_LEAST_SIDE, _STRIDE = 64, 8


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """Options of a run, either of `minutes` or of `steps`."""

  # Name of a model, "scratch", folder of a trained model, or a checkpoint
  # (.npz); None for the embedded one.
  start: str | None = None
  # Classes: "folders", "none", "auto" (folders, where all photos lie in
  # sub-folders), or path of a CSV file. Not of detectors.
  labels: str = data.AUTO
  minutes: float | None = None
  steps: int | None = None
  rate: float | None = None  # The highest; None for that of the network.
  # Pairs of views, or views of a detector, in a step; None for 8, or as many as
  # there are places for.
  batch: int | None = None
  view: int = 192  # Pixels of a view's side; not of detectors.
  size: int = 400  # Pixels that the longer side of photos is scaled down to.
  pasted: float = 0.3  # Share of a detector's views with pasted boxes.
  seed: int = 0
  rotate: bool = False  # Whether the EXIF orientation is applied.

  def __post_init__(self):
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("a number of minutes or of steps", "both or none")
    for name, value in (("view", self.view), ("size", self.size)):
      if value < _LEAST_SIDE or (name == "view" and value % _STRIDE):
        sides = f"{_LEAST_SIDE} pixels or more, a view a multiple of {_STRIDE}"
        raise errors.InputError(f"a {name} of {sides}", value)
    if not 0 <= self.pasted <= 1:
      raise errors.InputError("a share in [0, 1] as pasted", self.pasted)

  @property
  def budget(self) -> loop.Budget:
    """The minutes or steps."""
    seconds = None if self.minutes is None else 60 * self.minutes
    return loop.Budget(self.steps, seconds)


@dataclasses.dataclass(frozen=True)
class TrainReport:
  """Result of a training."""

  out: str
  kept: str  # Name in `scores` of the network that was kept.
  steps: int
  photos: int  # Trained on.
  held_out: int  # Photos that were measured with.
  scores: dict  # By name: BEFORE, AFTER, and others of the task.
  seconds: dict[str, float]  # By phase.
  failed: tuple = ()  # engine.Failure of each photo that was left out.
  # Of the task's record.
  details: dict = dataclasses.field(default_factory=dict)
  lines: tuple[str, ...] = ()  # Text for people.

  @property
  def exit_status(self) -> int:
    """Exit status of a program that did this."""
    return 1 if self.failed else 0

  def as_dict(self) -> dict:
    """Return plain values, as in the record."""
    values = dataclasses.asdict(self)
    details, _ = values.pop("details"), values.pop("lines")
    return values | details


class Stopped(Exception):  # noqa: N818 - it is no error
  """A signal, by its `number`, ended the training after a checkpoint."""

  def __init__(self, number: int, step: int):
    super().__init__(f"stopped at step {step}; the same command goes on there")
    self.number = number


class Task(Protocol):
  """What `train` trains: one kind of network on given photos."""

  last: str  # File in the folder of the unfinished run that is written last.
  settings: dict  # Plain values that two runs are compared by.

  def run(self, folder: pathlib.Path, out: str) -> TrainReport:
    """Train, measure and choose; all that is unfinished lies in `folder`."""

  def write(self, report: TrainReport, folder: pathlib.Path) -> None:
    """Write the kept network to a folder that does not exist yet."""

  def record(self, report: TrainReport) -> dict:
    """Return the record of the training besides its settings."""

  def card(self, report: TrainReport, command: Sequence[str]) -> str:
    """Return the text of the model card."""


def train(
  task: Task,
  photos: Sequence[str | os.PathLike],
  out: str | os.PathLike,
  overwrite: bool = False,
  command: Sequence[str] = (),
) -> TrainReport:
  """Train a network, and write it with record and card to a new folder.

  What is unfinished lies in `<out>.unfinished`; the same call resumes there.

  Photos are folders, patterns and lists too. With `overwrite` a finished
  network at `out`, and an unfinished run of other settings, are replaced. The
  card has the command.

  Raises:
    FileNotFoundError: If a photo or the network to begin with is missing.
    InputError: If the folder is taken, or a photo or a loss is wrong; of a loss
      that is not finite the last checkpoint stays.
    Stopped: After SIGINT or SIGTERM while it learnt.
  """
  from delf.networks import exporting

  out = pathlib.Path(out)
  for source in filter(os.path.isdir, photos):
    if out.resolve().is_relative_to(os.path.realpath(source)):
      raise errors.InputError(
        "a folder outside those of the photos", f"one inside {source}", out
      )
  folder = out.with_name(f"{out.name}{_UNFINISHED}")
  _check_unfinished(folder)
  if _is_leftover(out, folder, task.last):
    shutil.rmtree(folder, ignore_errors=True)
  _check_finished(out, task.settings, overwrite)
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_folder(folder):
    _claim(folder, task.settings, overwrite)
    report = task.run(folder, os.fspath(out))
    with exporting.destination(out, overwrite) as new:
      task.write(report, new)
      record = {"settings": task.settings} | task.record(report)
      text = json.dumps(record, indent=2, default=str)
      files.write_bytes(new / RECORD, text.encode())
      files.write_bytes(new / CARD, task.card(report, command).encode())
  shutil.rmtree(folder, ignore_errors=True)
  return report


def settings(options: TrainOptions, unused: Sequence[str], **more) -> dict:
  """Return the settings of a run: options that its task uses, and digests."""
  values = dataclasses.asdict(options) | more
  return {name: v for name, v in values.items() if name not in unused}


def short_digest(data: bytes) -> str:
  """Return the first digits of a digest, for settings."""
  return hashlib.sha256(data).hexdigest()[:12]


def fill_card(
  template: str, report: TrainReport, command: Sequence[str], **values
) -> str:
  """Return the text of a model card, given the file name of its template."""
  folder = importlib.resources.files("delf.learning.finetune")
  text = (folder / template).read_text(encoding="utf-8")
  return text.format(
    name=os.path.basename(os.path.abspath(report.out)),
    day=f"{datetime.date.today():%d %B %Y}",
    folder=shlex.quote(report.out),
    command=shlex.join(command),
    versions=describe_versions(),
    **values,
  )


def describe_versions() -> str:
  """Return names and versions of packages as one text."""
  return ", ".join(f"{n} {v}" for n, v in report_card.versions().items())


def best(scores: dict) -> str:
  """Return the name of the highest overall score, the first of equal ones."""
  return max(scores, key=lambda name: scores[name].overall())


def learn(
  learner: loop.Learner, budget: loop.Budget, folder: pathlib.Path
) -> list[dict]:
  """Learn until the budget is spent, from the checkpoint if there is one.

  Returns rows of the learning curve, if the learner measures: step, seconds,
  spent share, held_out, and means of the metrics since the row before.
  """
  curve = _Curve(folder / CURVE, budget)
  number = loop.run(
    learner,
    budget,
    [loop.Live(budget), curve],
    loop.Every(seconds=_SAVE_SECONDS),
    loop.Every(parts=_ROWS),
  )
  if number is not None and budget.share(learner) < 1:
    raise Stopped(number, learner.step)
  return curve.rows


class _Curve(loop.Observer):
  """Keeps the learning curve, in a file too."""

  def __init__(self, path, budget):
    self.rows, self._path, self._budget = [], path, budget
    self._metrics = collections.defaultdict(list)

  def start(self, learner):
    self._learner = learner
    if self._path.exists() and learner.step:
      rows = json.loads(files.read_bytes(self._path))
      self.rows = [row for row in rows if row["step"] <= learner.step]
    spent = self._budget.share(learner)
    last = self.rows[-1]["spent"] if self.rows else -1
    # At the start, and where a run was killed before it measured.
    due = int(last * _ROWS) < int(spent * _ROWS)
    if due and (metrics := learner.measure()):
      self.on_measure(learner.step, metrics)

  def on_step(self, step, metrics, details):
    for name, value in metrics.items():
      self._metrics[name].append(value)

  def on_measure(self, step, metrics):
    row = {
      "step": step,
      "seconds": round(self._learner.seconds, 2),
      "spent": self._budget.share(self._learner),
      **metrics,
    }
    means = {name: float(np.mean(v)) for name, v in self._metrics.items()}
    self.rows.append(row | means)
    self._metrics.clear()
    files.write_bytes(self._path, json.dumps(self.rows).encode())


def _check_unfinished(folder):
  """Raise InputError for a folder with files that are not of a run."""
  if folder.exists() and not folder.is_dir():
    raise errors.InputError("a folder for what is unfinished", "a file", folder)
  if not folder.exists() or (folder / _SETTINGS).exists():
    return
  # Hidden files are of a run that ended at once.
  if any(not path.name.startswith(".") for path in folder.iterdir()):
    expected = "a folder of an unfinished training, or none"
    raise errors.InputError(expected, "one with other things in it", folder)


def _is_leftover(out, folder, last):
  """Tell whether a run ended between its model and its own removal."""
  settings, record = map(manifest.read, (folder / _SETTINGS, out / RECORD))
  if settings is None or record is None or not (folder / last).exists():
    return False
  return record.get("settings") == settings


def _check_finished(out, settings, overwrite):
  """Raise InputError if `out` is taken; it names how the training differs."""
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  if not out.is_dir():
    raise errors.InputError("a folder", "a file", out)
  record = manifest.read(out / RECORD)
  if record is None:
    raise errors.InputError("a new folder", "one with other things in it", out)
  if not overwrite:
    difference = manifest.difference(record.get("settings", {}), settings)
    received = f"a finished model {difference or 'of the same settings'}"
    raise errors.InputError("a new folder, or --overwrite", received, out)


def _claim(folder, settings, overwrite):
  """Write the settings of a run, or compare them with those of the run before.

  Before the first checkpoint nothing but the reading of photos is lost, so that
  a run of other settings is replaced.
  """
  difference = manifest.difference(
    manifest.read(folder / _SETTINGS) or settings, settings
  )
  if difference and not overwrite and (folder / CHECKPOINT).exists():
    same = "the same photos and settings (or --overwrite)"
    expected = f"an unfinished training of {same}"
    raise errors.InputError(expected, f"one {difference}", folder)
  if difference:
    for old in folder.iterdir():
      if old.is_dir():
        shutil.rmtree(old)
      elif old.name != ".lock":  # Of `files.lock_folder`, on some systems.
        old.unlink()
  manifest.write(folder / _SETTINGS, settings)
