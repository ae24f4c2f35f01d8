"""Photos with boxes, by a CSV file such as those of Google Landmark Boxes."""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import shlex
import shutil

import numpy as np

from delf.base import boxes as box_arithmetic
from delf.base import errors, files
from delf.evaluation import report_card
from delf.extraction import jobs
from delf.learning.finetune import data, records, training_run

# With fewer there is nothing to hold out.
FEWEST_PHOTOS = 10
_NAMES = ("image_id", "image", "id", "photo", "name", "filename", "path")
_SIDES = ("ymin", "xmin", "ymax", "xmax")
_BOX = ("box", "bbox", "bounding_box")
_EXPECTED = (
  "a first line image_id,box (four numbers with spaces between) or "
  "image_id,ymin,xmin,ymax,xmax"
)


@dataclasses.dataclass(frozen=True)
class BoxList:
  """Photos with boxes.

  Attributes:
    paths: list of paths of photos.
    boxes: list of float32 [N, 4], one for each: (ymin, xmin, ymax, xmax) in
      [0, 1].
    missing: Names in the CSV file of which there is no photo.
  """

  paths: list
  boxes: list
  missing: tuple


def read(path, given):
  """Finds photos and their boxes.

  Args:
    path: CSV file of a row for each box, with a first line that names columns:
      `image_id,box`, where a box is "ymin xmin ymax xmax", or
      `image_id,ymin,xmin,ymax,xmax`, in any order; all in [0, 1]. The first is
      that of `boxes_split1.csv` and `boxes_split2.csv` of Google Landmark
      Boxes, as it is remembered: the files can no longer be had. Where both are
      written one behind the other, the second first line is passed over.
    given: Folders, patterns, lists and photos. Photos without a row are left
      out.

  Returns:
    BoxList, in the order of the photos.

  Raises:
    FileNotFoundError: If the file or a source is not there.
    InputError: If it is another file, has a box that is none, or if fewer than
      FEWEST_PHOTOS photos have boxes.
  """
  listed = _rows(path)
  paths, names = jobs.find(given)
  found, used = [], set()
  for each, name in zip(paths, names, strict=True):
    base = os.path.basename(each)
    keys = (name, base, os.path.splitext(base)[0])
    key = next((key for key in keys if key in listed), None)
    if key is not None:
      used.add(key)
      found.append((each, np.stack(listed[key])))
  if len(found) < FEWEST_PHOTOS:
    raise errors.InputError(
      f"boxes of at least {FEWEST_PHOTOS} of the photos",
      f"of {len(found)} ({len(paths)} photos, {len(listed)} names in the file)",
      path,
    )
  missing = tuple(name for name in listed if name not in used)
  return BoxList([p for p, _ in found], [b for _, b in found], missing)


def _rows(path):
  """Returns dict by name of a photo of its boxes, list of [4] float32."""
  rows = files.read_csv(path, header=True)
  _, head = next(rows)
  name_at, box_at = _columns([value.strip().lower() for value in head], path)
  listed = {}
  for line, row in rows:
    if row == head:
      continue
    try:
      name = row[name_at].strip()
      numbers = [float(v) for i in box_at for v in _split(row[i])]
    except (IndexError, ValueError):
      name, numbers = "", []
    if not name or len(numbers) != 4:
      raise errors.InputError(
        "a photo and four numbers a row",
        f"{','.join(row)!r} in line {line}",
        path,
      )
    where = f"{os.fspath(path)}, line {line}"
    box = box_arithmetic.check(np.array([numbers]), where)[0]
    listed.setdefault(name, []).append(box)
  return listed


def _columns(head, path):
  """Returns the column of the name, and those of the box."""
  name = next((head.index(each) for each in _NAMES if each in head), None)
  box = next(([head.index(each)] for each in _BOX if each in head), None)
  if box is None and all(side in head for side in _SIDES):
    box = [head.index(side) for side in _SIDES]
  if name is None or box is None:
    raise errors.InputError(_EXPECTED, repr(",".join(head))[:80], path)
  return name, box


def _split(text):
  return text.replace(",", " ").strip(" []()").split()


_CARD = """\
# {name}

A detector of landmarks, made by `delf train-detector` on {day}, from `{start}`.
{kept}

## Use

```
delf detect PHOTOS --detector {folder} --out boxes/
```

Any number of photos of one size, uint8 [B, H, W, 3], as `input_images`;
`detection_boxes` (ymin, xmin, ymax, xmax in [0, 1]), `detection_scores` and
`detection_classes`, best first. The same command with `--from {folder}` goes on
from here.

## Data

{photos} photos to train on, {held_out} held out, each with its boxes.

## Method

The backbone is fixed; a head without anchors learns scores and boxes in cells
of 16 pixels of the photo drawn out to 256 x 256. Views are windows that show
the boxes, mirrored and in another light; in a share of {pasted:g} what is in a
box is pasted on another background. {steps} steps of {batch} views in
{seconds:.0f} s.

## Measurements

On held-out photos. A box is found where one overlaps it (intersection over
union) by 0.5 or more; the median box is as large as the boxes trained on, in
the middle of the photo.

{table}

The detector of the higher average precision was kept, so that its figure is a
little high.

## How to make it again

```
{command}
```

{versions}

## Limits

- Trained and measured on one collection: on other photos it may be worse than
  the detector that it began with.
- One class; boxes below a fiftieth of certainty are left out, and at most 20 of
  a photo are given.
"""

_KEPT = {
  "before": "**Training brought no gain on held-out photos: its weights are "
  "those that it began with.**",
  "after": "Its head is the trained one.",
}


def text(report, told, command):
  """Returns the text of a card.

  Args:
    report: run.DetectorReport.
    told: options.DetectorOptions.
    command: Words of the command.
  """
  made = report_card.versions()
  return _CARD.format(
    name=os.path.basename(os.path.abspath(report.out)),
    day=f"{datetime.date.today():%d %B %Y}",
    start=told.start,
    kept=_KEPT[report.kept],
    folder=shlex.quote(report.out),
    photos=report.photos,
    held_out=report.held_out,
    pasted=told.pasted,
    steps=report.steps,
    batch=told.batch,
    seconds=report.seconds,
    table="\n".join(table(report.scores)),
    command=shlex.join(command),
    versions=", ".join(f"{n} {v}" for n, v in made.items()),
  )


def table(scores):
  """Yields the lines of a Markdown table.

  Args:
    scores: dict by name of measure.Scores.
  """
  yield "| boxes | average precision | recall | precision | mean best overlap |"
  yield "|---|---|---|---|---|"
  for name, each in scores.items():
    yield (
      f"| {name} | {each.average_precision:.3f} | {each.recall:.3f} | "
      f"{each.precision:.3f} | {each.mean_overlap:.3f} |"
    )


SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class DetectorOptions:
  """Settings of a training; runs of other settings do not go on.

  Attributes:
    start: Folder or name of the detector to begin with; or "scratch", for a
      head of random weights on the backbone of the embedded one.
    minutes: Time to learn, or None.
    steps: Steps to learn, or None; one of the two is given.
    rate: Highest learning rate.
    batch: Views of a step.
    pasted: Share of views in which what is in a box is pasted elsewhere.
    size: Longer side that photos are scaled down to, in pixels.
    seed: Of everything that is drawn.
    rotate: Whether the EXIF orientation is applied.

  Raises:
    InputError: If a number cannot be.
  """

  start: str = "delf-boxes"
  minutes: float | None = 15.0
  steps: int | None = None
  rate: float = 5e-4
  batch: int = 8
  pasted: float = 0.3
  size: int = 400
  seed: int = 0
  rotate: bool = False

  def __post_init__(self):
    if (self.minutes is None) == (self.steps is None):
      raise errors.InputError("a number of minutes or of steps", "both or none")
    if self.size < 64:
      raise errors.InputError("a size of 64 pixels or more", self.size)
    if not 0 <= self.pasted <= 1:
      raise errors.InputError("a share in [0, 1] as pasted", self.pasted)


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
    failed: engine.Failure of each photo that was left out.
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
  found = read(boxes, photos)
  start = _start(told)
  settings = _settings(found, told, start)
  out = pathlib.Path(out)
  data.refuse_inside(photos, out)
  folder = out.with_name(f"{out.name}{_UNFINISHED}")
  records.refuse_other_things(folder)
  if records.is_leftover(out, folder, training_run.CHECKPOINT):
    shutil.rmtree(folder, ignore_errors=True)
  records.refuse_finished(out, settings, overwrite)
  with _working(folder, settings, overwrite):
    report = _run(found, folder, out, told, start, settings, command)
  shutil.rmtree(folder, ignore_errors=True)
  return report


def _start(told):
  """Returns the folder of the detector to begin with."""
  from delf.inference import zoo

  name = zoo.EMBEDDED_DETECTOR
  return zoo.resolve(name if told.start == SCRATCH else told.start)


def _settings(found, told, start):
  """Returns what two runs are compared by, a dict of plain values."""
  text = repr([each.tolist() for each in found.boxes]).encode()
  weights = b"".join(
    files.read_bytes(path)
    for path in sorted(pathlib.Path(start, "variables").glob("*"))
  )
  return dataclasses.asdict(told) | {
    "photos": f"{len(found.paths)} photos "
    f"({records.digest_photo_store(found.paths)[:12]})",
    "boxes": hashlib.sha256(text).hexdigest()[:12],
    "first weights": hashlib.sha256(weights).hexdigest()[:12],
  }


@contextlib.contextmanager
def _working(folder, settings, overwrite):
  """Claims the folder of the unfinished run for this run."""
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_folder(folder):
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
  from delf.learning import detector_network, detector_training

  detector = _first(told, start)
  store = records.gather(found.paths, folder, told.size, told.rotate)
  known, held_out = _split_run(found, store)
  scores = _measured(detector, known, held_out, BEFORE)
  learner = detector_training.DetectorTrainer(detector, told.rate)
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
    ("MODEL_CARD.md", text(report, told, command).encode()),
  )
  kept = detector if gained else _first(told, start)
  detector_network.export(kept, out, overwrite=True, extra=extra)
  return report


def _gained(scores):
  """Returns whether training made the detector better."""
  return scores[AFTER].average_precision > scores[BEFORE].average_precision


def _first(told, start):
  """Returns the network.Detector that a training begins with."""
  import keras

  from delf.learning import detector_network

  keras.utils.set_random_seed(told.seed)
  detector = detector_network.load(start)
  if told.start == SCRATCH:
    detector.head.set_weights(detector_network.Detector().head.get_weights())
  return detector


def _split_run(found, store):
  """Returns known_boxes.Known to train on, and to measure with."""
  from delf.learning import detector_training

  every = [
    detector_training.Known(image, boxes, 1.0, i)
    for i, (image, boxes) in enumerate(
      zip(store.images, found.boxes, strict=True)
    )
    if image is not None
  ]
  if len(every) < FEWEST_PHOTOS:
    raise errors.InputError(
      f"{FEWEST_PHOTOS} photos with boxes that can be read",
      f"{len(every)}; {store.failures[0]}",
    )
  held_out = every[_HELD_OUT // 2 :: _HELD_OUT]
  known = [each for i, each in enumerate(every) if i % _HELD_OUT != 5]
  return known, held_out


def _measured(detector, known, held_out, name):
  """Returns dict by `name`, and by that of the baselines, of Scores."""
  from delf.learning import detector_network, detector_training

  learnt = [each.boxes for each in known]
  asked = [(each.image, each.boxes) for each in held_out]
  found = detector_training.compare(
    detector_network.finder(detector), learnt, asked
  )
  found[name] = found.pop(detector_training.ALL)
  return {key: found[key] for key in found if key != detector_training.BEST}


def _learn(learner, known, held_out, told, folder):
  from delf.learning import detector_training

  drawn = detector_training.Options(
    number=told.batch, pasted=told.pasted, seed=told.seed
  )
  seconds = None if told.minutes is None else 60 * told.minutes
  training_run.learn(
    learner,
    detector_training.TERMS,
    lambda step: detector_training.batch(known, drawn, step),
    training_run.Budget(told.steps, seconds),
    folder,
    lambda: float("nan"),
  )
