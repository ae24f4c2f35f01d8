"""Trains a detector on photos and boxes: measured before and after."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil

from delf.python import errors, files, folder_lock
from delf.python.pipelines.train import learning, photo_store, records, sources
from delf.python.pipelines.train_detector import box_list, card, options

# One photo in so many is held out.
_HELD_OUT = 10
_UNFINISHED = ".unfinished"
_RECORD, _SETTINGS = "training.json", "settings.json"
BEFORE, AFTER = "before", "after"


@dataclasses.dataclass(frozen=True)
class DetectorReport:
  """What became of a training of a detector.

  Attributes:
    out: Folder of the detector.
    kept: BEFORE or AFTER, the one of higher average precision.
    steps: Steps made.
    photos: Photos that were trained on.
    held_out: Photos that were measured with.
    missing: Names in the CSV file of which there is no photo.
    scores: dict by BEFORE, AFTER, "whole image" and "median box" of
      measure.Scores of held-out photos.
    seconds: Time of learning.
    failed: extract_report.Failure of each photo that was left out.
  """

  out: str
  kept: str
  steps: int
  photos: int
  held_out: int
  missing: tuple
  scores: dict
  seconds: float
  failed: tuple = ()

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    return 1 if self.failed else 0


def train(boxes, photos, out, told, overwrite=False, command=()):
  """Trains a detector; repeated, it goes on in `<out>.unfinished`.

  Args:
    boxes: CSV file; see `box_list.read`.
    photos: Folders, patterns, lists and photos.
    out: Folder of the detector to be.
    told: options.DetectorOptions.
    overwrite: Whether a finished detector at `out`, and an unfinished one of
      other settings, are replaced.
    command: Words of the command, for the model card.

  Returns:
    DetectorReport.

  Raises:
    FileNotFoundError: If the file, a photo or the first detector is not there.
    InputError: If something that is given is not right; it says what.
    learning.Stopped: After SIGINT or SIGTERM while it learnt.
  """
  found = box_list.read(boxes, photos)
  start = _start(told)
  settings = _settings(found, told, start)
  out = pathlib.Path(out)
  sources.refuse_inside(photos, out)
  folder = out.with_name(f"{out.name}{_UNFINISHED}")
  records.refuse_other_things(folder)
  if records.is_leftover(out, folder, learning.CHECKPOINT):
    shutil.rmtree(folder, ignore_errors=True)
  records.refuse_finished(out, settings, overwrite)
  with _working(folder, settings, overwrite):
    report = _run(found, folder, out, told, start, settings, command)
  shutil.rmtree(folder, ignore_errors=True)
  return report


def _start(told):
  """Returns the folder of the detector to begin with."""
  from delf.python.inference import zoo, zoo_table

  name = zoo_table.EMBEDDED_DETECTOR
  return zoo.resolve(name if told.start == options.SCRATCH else told.start)


def _settings(found, told, start):
  """Returns what two runs are compared by, a dict of plain values."""
  text = repr([each.tolist() for each in found.boxes]).encode()
  weights = b"".join(
    files.read_bytes(path)
    for path in sorted(pathlib.Path(start, "variables").glob("*"))
  )
  return dataclasses.asdict(told) | {
    "photos": f"{len(found.paths)} photos "
    f"({photo_store.digest(found.paths)[:12]})",
    "boxes": hashlib.sha256(text).hexdigest()[:12],
    "first weights": hashlib.sha256(weights).hexdigest()[:12],
  }


@contextlib.contextmanager
def _working(folder, settings, overwrite):
  """Claims the folder of the unfinished run for this run."""
  folder.mkdir(parents=True, exist_ok=True)
  with folder_lock.alone(folder):
    try:
      records.claim(folder, settings)
    except errors.InputError:
      if not overwrite:
        raise
      for path in folder.iterdir():
        path.unlink()
      records.claim(folder, settings)
    yield


def _run(found, folder, out, told, start, settings, command):  # noqa: PLR0913
  from delf.python.training.detector import export, trainer

  detector = _first(told, start)
  store = photo_store.gather(found.paths, folder, told.size, told.rotate)
  known, held_out = _split(found, store)
  scores = _measured(detector, known, held_out, BEFORE)
  learner = trainer.DetectorTrainer(detector, told.rate)
  _learn(learner, known, held_out, told, folder)
  scores |= _measured(detector, known, held_out, AFTER)
  gained = _gained(scores)
  report = DetectorReport(
    out=str(out),
    kept=AFTER if gained else BEFORE,
    steps=learner.step,
    photos=len(known),
    held_out=len(held_out),
    missing=found.missing,
    scores=scores,
    seconds=learner.seconds,
    failed=store.failures,
  )
  record = {"settings": settings, "report": dataclasses.asdict(report)}
  extra = (
    (_RECORD, json.dumps(record, indent=2, default=str).encode()),
    ("MODEL_CARD.md", card.text(report, told, command).encode()),
  )
  kept = detector if gained else _first(told, start)
  export.export(kept, out, overwrite=True, extra=extra)
  return report


def _gained(scores):
  """Returns whether training made the detector better."""
  return scores[AFTER].average_precision > scores[BEFORE].average_precision


def _first(told, start):
  """Returns the network.Detector that a training begins with."""
  import keras

  from delf.python.training.detector import export, network

  keras.utils.set_random_seed(told.seed)
  detector = export.load(start)
  if told.start == options.SCRATCH:
    detector.head.set_weights(network.Detector().head.get_weights())
  return detector


def _split(found, store):
  """Returns known_boxes.Known to train on, and to measure with."""
  from delf.python.training.detector import known_boxes

  every = [
    known_boxes.Known(image, boxes, 1.0, i)
    for i, (image, boxes) in enumerate(
      zip(store.images, found.boxes, strict=True)
    )
    if image is not None
  ]
  if len(every) < box_list.FEWEST_PHOTOS:
    raise errors.InputError(
      f"{box_list.FEWEST_PHOTOS} photos with boxes that can be read",
      f"{len(every)}; {store.failures[0]}",
    )
  held_out = every[_HELD_OUT // 2 :: _HELD_OUT]
  known = [each for i, each in enumerate(every) if i % _HELD_OUT != 5]
  return known, held_out


def _measured(detector, known, held_out, name):
  """Returns dict by `name`, and by that of the baselines, of Scores."""
  from delf.python.training.detector import export, measure

  learnt = [each.boxes for each in known]
  asked = [(each.image, each.boxes) for each in held_out]
  found = measure.compare(export.finder(detector), learnt, asked)
  found[name] = found.pop(measure.ALL)
  return {key: found[key] for key in found if key != measure.BEST}


def _learn(learner, known, held_out, told, folder):
  from delf.python.training.detector import data, trainer

  drawn = data.Options(number=told.batch, pasted=told.pasted, seed=told.seed)
  seconds = None if told.minutes is None else 60 * told.minutes
  learning.learn(
    learner,
    trainer.TERMS,
    lambda step: data.batch(known, drawn, step),
    learning.Budget(told.steps, seconds),
    folder,
    lambda: float("nan"),
  )
