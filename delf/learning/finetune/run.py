"""Training on a user's photos: options, run folder, record and report."""

import collections
import dataclasses
import datetime
import functools
import hashlib
import importlib.resources
import json
import os
import pathlib
import shlex
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from delf.base import errors, files, manifest
from delf.evaluation import report_card
from delf.extraction import engine
from delf.learning import loop
from delf.learning.finetune import data

# Value of `start` for random weights.
SCRATCH = "scratch"

# Names of the networks that are measured; a task may add others.
BEFORE, AFTER = "before", "after"
# Sentence of the card if BEFORE is kept.
NO_GAIN = (
  "**Training brought no gain on held-out photos: its weights are those that "
  "it started from.**"
)

CHECKPOINT, CURVE, RECORD = "checkpoint.npz", "curve.json", "training.json"
CARD = "MODEL_CARD.md"
_SETTINGS, _UNFINISHED = "settings.json", ".unfinished"
# Seconds between checkpoints: the most work that a killed run loses.
_SAVE_SECONDS = 60.0
_ROWS = 40  # Rows of the learning curve over the whole budget.
# Limits on the sides of photos and views, checked before photos are read.
_LEAST_SIDE, _STRIDE = 64, 8


@dataclasses.dataclass(frozen=True)
class TrainOptions:
  """Options of a training run; either `minutes` or `steps` is required."""

  # Name of a model, "scratch", folder of a trained model, or a checkpoint
  # (.npz); None for the embedded model.
  start: str | None = None
  # Classes: "folders", "none", "auto" (folders if all photos lie in
  # subfolders), or the path of a CSV file. Unused by detectors.
  labels: str = data.AUTO
  minutes: float | None = None
  steps: int | None = None
  # Highest learning rate; None for the default of the network.
  rate: float | None = None
  # Pairs of views in a step, or views of a detector; None for 8, or fewer if
  # the photos show fewer places.
  batch: int | None = None
  view: int = 192  # Side of a view in pixels; unused by detectors.
  size: int = 400  # Longer side in pixels to which photos are scaled down.
  pasted: float = 0.3  # Share of a detector's views with pasted boxes.
  seed: int = 0
  rotate: bool = False  # Whether to apply the EXIF orientation.

  def __post_init__(self) -> None:
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("give either minutes or steps")
    for name, value in (("view", self.view), ("size", self.size)):
      if value < _LEAST_SIDE:
        message = f"{name} must be {_LEAST_SIDE} pixels or more, not {value}"
        raise errors.InputError(message)
    if self.view % _STRIDE:
      message = f"view must be a multiple of {_STRIDE} pixels, not {self.view}"
      raise errors.InputError(message)
    if not 0 <= self.pasted <= 1:
      message = f"pasted must be a share in [0, 1], not {self.pasted}"
      raise errors.InputError(message)

  @property
  def budget(self) -> loop.Budget:
    """Budget of the run in steps or seconds."""
    seconds = None if self.minutes is None else 60 * self.minutes
    return loop.Budget(self.steps, seconds)


@dataclasses.dataclass(frozen=True)
class TrainReport:
  """Result of a training run."""

  out: str
  kept: str  # Name in `scores` of the network that was written.
  steps: int
  photos: int  # Number of training photos.
  held_out: int  # Number of held-out photos.
  scores: dict[str, Any]  # By name: BEFORE, AFTER, and others of the task.
  seconds: dict[str, float]  # By phase.
  failed: tuple[engine.Failure, ...] = ()  # Photos that were left out.
  # More facts for the record, by task.
  details: dict[str, Any] = dataclasses.field(default_factory=dict)
  lines: tuple[str, ...] = ()  # Summary to print.

  @property
  def exit_status(self) -> int:
    """Exit status of the program: 1 if a photo failed, otherwise 0."""
    return 1 if self.failed else 0

  def as_dict(self) -> dict:
    """Return the values for the record, without `lines`."""
    values = dataclasses.asdict(self)
    details, _ = values.pop("details"), values.pop("lines")
    return values | details


class Stopped(Exception):  # noqa: N818 - not an error
  """Raised when a signal, `number`, ends training after a checkpoint."""

  def __init__(self, number: int, step: int) -> None:
    super().__init__(f"stopped at step {step}; the same command resumes there")
    self.number = number


class Task(Protocol):
  """A kind of network to train on given photos."""

  last: str  # File of the unfinished run's folder that is written last.
  settings: dict[str, Any]  # Plain values by which two runs are compared.

  def run(self, folder: pathlib.Path, out: str) -> TrainReport:
    """Train, measure and choose, keeping unfinished work in `folder`."""

  def write(self, report: TrainReport, folder: pathlib.Path) -> dict[str, Any]:
    """Write the kept network to a new folder; return the record of the run."""

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

  Unfinished work lies in `<out>.unfinished`, from which the same call resumes.
  `photos` may have folders, patterns and lists; `out` must not lie in one of
  the folders. `overwrite` replaces a finished network at `out`, and an
  unfinished run of other settings. The card quotes `command`.

  Raises:
    FileNotFoundError: If a photo or the network to start from is missing.
    InputError: If `out` is taken, or if a photo, an option or the loss is not
      usable; if the loss is not finite the last checkpoint stays.
    Stopped: After SIGINT or SIGTERM during learning.
  """
  from delf.networks import exporting

  target = pathlib.Path(out)
  for source in filter(os.path.isdir, photos):
    if target.resolve().is_relative_to(os.path.realpath(source)):
      message = f"use a folder outside that of the photos, {source}"
      raise errors.InputError(message, path=target)
  folder = target.with_name(f"{target.name}{_UNFINISHED}")
  _check_places(folder, target, task, overwrite)
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_folder(folder):
    _claim(folder, task.settings, overwrite)
    report = task.run(folder, os.fspath(target))
    with exporting.destination(target, overwrite) as destination:
      new = pathlib.Path(destination)
      record = {"settings": task.settings} | task.write(report, new)
      text = json.dumps(record, indent=2, default=str)
      files.write_bytes(new / RECORD, text.encode())
      files.write_bytes(new / CARD, task.card(report, command).encode())
  shutil.rmtree(folder, ignore_errors=True)
  return report


def settings(
  options: TrainOptions,
  unused: Sequence[str],
  photos: Sequence[str],
  weights: Sequence[str | os.PathLike],
  **more: str,
) -> dict[str, Any]:
  """Return the settings of a run: used options, and digests of its files."""
  values = dataclasses.asdict(options)
  values["photos"] = f"{len(photos)} photos ({data.digest(photos)[:12]})"
  if weights:
    first = b"".join(map(files.read_bytes, weights))
    values["first weights"] = short_digest(first)
  return {n: v for n, v in (values | more).items() if n not in unused}


def short_digest(data: bytes) -> str:
  """Return the first 12 hex digits of the SHA-256 digest."""
  return hashlib.sha256(data).hexdigest()[:12]


def fill_card(
  template: str, report: TrainReport, command: Sequence[str], **values: object
) -> str:
  """Return the text of a model card, long lines of prose wrapped.

  `template` is a file of this package.
  """
  versions = report_card.versions().items()
  folder = importlib.resources.files(__package__)
  text = (
    (folder / template)
    .read_text(encoding="utf-8")
    .format(
      report=report,
      name=os.path.basename(os.path.abspath(report.out)),
      day=f"{datetime.date.today():%d %B %Y}",
      folder=shlex.quote(report.out),
      command=shlex.join(command),
      versions=", ".join(f"{name} {version}" for name, version in versions),
      **values,
    )
  )
  wrap = functools.partial(
    textwrap.fill, width=80, break_long_words=False, break_on_hyphens=False
  )
  lines, is_code = [], False
  for line in text.split("\n"):
    is_code ^= line == "```"
    if not is_code and line[:1] != "|":
      line = wrap(line, subsequent_indent="  " * line.startswith("- "))
    lines.append(line)
  return "\n".join(lines)


def best(scores: dict[str, Any]) -> str:
  """Return the name of the highest overall score; the first one wins ties."""
  return max(scores, key=lambda name: scores[name].overall())


def learn(
  learner: loop.Learner, budget: loop.Budget, folder: pathlib.Path
) -> list[dict[str, float]]:
  """Learn until the budget is spent, resuming from an existing checkpoint.

  Return the rows of the learning curve, if the learner measures: step, seconds,
  spent share, held_out, and means of the metrics since the previous row.
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
  """Keeps the learning curve in memory and in a file."""

  def __init__(self, path: pathlib.Path, budget: loop.Budget):
    self.rows: list[dict[str, float]] = []
    self._path, self._budget = path, budget
    self._metrics: dict[str, list[float]] = collections.defaultdict(list)

  def start(self, learner):
    self._learner = learner
    if self._path.exists() and learner.step:
      rows = json.loads(files.read_bytes(self._path))
      self.rows = [row for row in rows if row["step"] <= learner.step]
    spent = self._budget.share(learner)
    last = self.rows[-1]["spent"] if self.rows else -1
    # At the start, and if a run was killed before it measured.
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


def _check_places(folder, out, task, overwrite):
  """Raise InputError if a folder is taken; remove a leftover of a run."""
  # Hidden files are left by a run that ended at once.
  unfinished = _read_record(folder / _SETTINGS, ignored=".")
  finished = _read_record(out / RECORD)
  if finished is None:
    return
  settings = finished.get("settings", {})
  # Whether a run was killed after it wrote its model.
  if settings == unfinished and (folder / task.last).exists():
    shutil.rmtree(folder, ignore_errors=True)
  if not overwrite:
    difference = manifest.difference(settings, task.settings)
    raise errors.InputError(
      f"there is a finished model {difference or 'of the same settings'}; use "
      "a new folder, or --overwrite",
      path=out,
    )


def _read_record(path, ignored=()):
  """Return the record of a folder, or None if there is none.

  Raise InputError for other files, but those whose name starts with `ignored`.
  """
  folder, record = path.parent, manifest.read(path)
  if record is None and folder.exists():
    if not folder.is_dir():
      raise errors.InputError("not a folder but a file", path=folder)
    if any(not each.name.startswith(ignored) for each in folder.iterdir()):
      message = "the folder holds other things; use a new one"
      raise errors.InputError(message, path=folder)
  return record


def _claim(folder, settings, overwrite):
  """Write the settings of a run, or compare them with those of an earlier one.

  A run of other settings without a checkpoint is replaced: only the reading of
  photos is lost.
  """
  difference = manifest.difference(
    manifest.read(folder / _SETTINGS) or settings, settings
  )
  if difference and not overwrite and (folder / CHECKPOINT).exists():
    raise errors.InputError(
      f"the unfinished training is one {difference}; use the same photos and "
      "settings, or --overwrite",
      path=folder,
    )
  for old in folder.iterdir() if difference else ():
    if old.is_dir():
      shutil.rmtree(old)
    # On some systems `files.lock_folder` writes this file.
    elif old.name != ".lock":
      old.unlink()
  manifest.write(folder / _SETTINGS, settings)
