"""`delf train-detector`: train a detector on a user's photos and boxes."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from delf.base import boxes as box_arithmetic
from delf.base import errors, files
from delf.extraction import engine
from delf.learning.finetune import data, run

# Default highest learning rate, and default number of views in a step.
RATE, BATCH = 5e-4, 8

_HELD_OUT = 10  # One photo in 10 is held out.
# Names of columns in the CSV file.
_NAMES = ("image_id", "image", "id", "photo", "name", "filename", "path")
_SIDES = ("ymin", "xmin", "ymax", "xmax")
_BOX = ("box", "bbox", "bounding_box")

_KEPT = {run.BEFORE: run.NO_GAIN, run.AFTER: "Its head is the trained one."}


@dataclasses.dataclass(frozen=True)
class BoxList:
  """Photos with boxes."""

  paths: list[str]
  boxes: list[np.ndarray]  # float32 [N, 4] for each photo.
  missing: tuple[str, ...]  # Names in the CSV file without a photo.


def read(
  path: str | os.PathLike, photos: Sequence[str | os.PathLike]
) -> BoxList:
  """Find photos and their boxes, in the order of the photos.

  `path` is a CSV file with a row for each box and a header in any order: either
  `image_id,box`, with a box "ymin xmin ymax xmax", or
  `image_id,ymin,xmin,ymax,xmax`; numbers are in [0, 1]. The first form is, from
  memory, that of Google Landmark Boxes (`boxes_split1.csv` and the second), no
  longer available. A repeated header, as of two concatenated files, is skipped.
  Photos without a row are left out; InputError is raised if fewer than ten have
  boxes, or a row is malformed.
  """
  listed = _rows(path)
  paths, names = engine.find(photos)
  boxed, used = [], set()
  for photo, name in zip(paths, names, strict=True):
    base = os.path.basename(photo)
    keys = (name, base, os.path.splitext(base)[0])
    key = next((key for key in keys if key in listed), None)
    if key is not None:
      used.add(key)
      boxed.append((photo, np.stack(listed[key])))
  if len(boxed) < data.FEWEST_PHOTOS:
    raise errors.InputError(
      f"the {len(listed)} names in the file match {len(boxed)} of {len(paths)} "
      f"photos; training needs at least {data.FEWEST_PHOTOS}",
      path=path,
    )
  missing = tuple(name for name in listed if name not in used)
  return BoxList([p for p, _ in boxed], [b for _, b in boxed], missing)


def _rows(path):
  """Return the boxes, each float32 [4], by name of the photo."""
  rows = files.read_csv(path, header=True)
  _, head = next(rows)
  columns = [value.strip().lower() for value in head]
  name_at = next((columns.index(n) for n in _NAMES if n in columns), None)
  box_at = next(([columns.index(n)] for n in _BOX if n in columns), None)
  if box_at is None and all(side in columns for side in _SIDES):
    box_at = [columns.index(side) for side in _SIDES]
  if name_at is None or box_at is None:
    raise errors.InputError(
      f"the first line is {','.join(columns)[:80]!r}; it must be image_id,box "
      "(four numbers with spaces between) or image_id,ymin,xmin,ymax,xmax",
      path=path,
    )
  listed: dict[str, list[np.ndarray]] = {}
  for line, row in rows:
    if row == head:
      continue
    try:
      name = row[name_at].strip()
      cells = (row[i].replace(",", " ").strip(" []()") for i in box_at)
      numbers = [float(number) for cell in cells for number in cell.split()]
    except (IndexError, ValueError):
      name, numbers = "", []
    if not name or len(numbers) != 4:
      message = (
        f"{','.join(row)!r} in line {line} is not a photo and four numbers"
      )
      raise errors.InputError(message, path=path)
    where = f"{os.fspath(path)}, line {line}"
    box = box_arithmetic.check(np.array([numbers]), where)[0]
    listed.setdefault(name, []).append(box)
  return listed


def train(  # noqa: PLR0913
  boxes: str | os.PathLike,
  photos: Sequence[str | os.PathLike],
  out: str | os.PathLike,
  options: run.TrainOptions,
  overwrite: bool = False,
  command: Sequence[str] = (),
) -> run.TrainReport:
  """Train a detector; see `read` for `boxes`, and `run.train`."""
  task = _DetectorTask(read(boxes, photos), options)
  return run.train(task, photos, out, overwrite, command)


class _DetectorTask(run.Task):
  last = run.CHECKPOINT

  def __init__(self, listed: BoxList, options: run.TrainOptions):
    from delf.inference import zoo

    start = zoo.EMBEDDED_DETECTOR if options.start is None else options.start
    self._rate = RATE if options.rate is None else options.rate
    self._batch = BATCH if options.batch is None else options.batch
    self._options = dataclasses.replace(
      options, start=start, rate=self._rate, batch=self._batch
    )
    # A random head is trained on the embedded detector's backbone.
    self._start = zoo.resolve(
      zoo.EMBEDDED_DETECTOR if start == run.SCRATCH else start
    )
    self._listed = listed
    text = repr([each.tolist() for each in listed.boxes]).encode()
    self.settings = run.settings(
      self._options,
      ("labels", "view"),
      listed.paths,
      sorted(pathlib.Path(self._start, "variables").glob("*")),
      boxes=run.short_digest(text),
    )

  def _first(self):
    """Return the detector that training starts from."""
    import keras

    from delf.learning import detector_network

    keras.utils.set_random_seed(self._options.seed)
    detector = detector_network.load(self._start)
    if self._options.start == run.SCRATCH:
      head = detector_network.Detector().head
      detector.head.set_weights(head.get_weights())
    return detector

  def run(self, folder, out):
    from delf.learning import detector_training

    options, listed = self._options, self._listed
    detector = self._first()
    images, failures = data.decode(
      listed.paths, folder, options.size, options.rotate
    )
    rows = enumerate(zip(images, listed.boxes, strict=True))
    photos = [
      detector_training.BoxedPhoto(image, boxes, i)
      for i, (image, boxes) in rows
      if image is not None
    ]
    if len(photos) < data.FEWEST_PHOTOS:
      raise errors.InputError(
        f"training needs at least {data.FEWEST_PHOTOS} photos with boxes that "
        f"can be read, not {len(photos)}; the first failure: {failures[0]}"
      )
    held_out = photos[_HELD_OUT // 2 :: _HELD_OUT]
    known = [photo for i, photo in enumerate(photos) if i % _HELD_OUT != 5]
    baselines, before = _measured(detector, known, held_out)
    drawn = detector_training.Options(
      number=self._batch, pasted=options.pasted, seed=options.seed
    )
    learner = detector_training.DetectorTrainer(
      detector,
      self._rate,
      draw=lambda step: detector_training.batch(known, drawn, step),
      path=folder / run.CHECKPOINT,
    )
    run.learn(learner, options.budget, folder)
    _, after = _measured(detector, known, held_out)
    scores = {run.BEFORE: before, run.AFTER: after}
    kept = run.best(scores)
    self._kept = detector if kept == run.AFTER else self._first()
    seconds = learner.seconds
    scores = baselines | scores
    return run.TrainReport(
      out=out,
      kept=kept,
      steps=learner.step,
      photos=len(known),
      held_out=len(held_out),
      scores=scores,
      seconds={"learning": seconds},
      failed=failures,
      details={"missing": listed.missing, "seconds": seconds},
      lines=(
        f"{learner.step} steps on {len(known)} photos in {seconds:.0f} s",
        *_table(scores),
        f"kept: {kept}; written to {out}",
      ),
    )

  def write(self, report, folder):
    from delf.learning import detector_network

    detector_network.export(self._kept, folder)
    return {"report": report.as_dict()}

  def card(self, report, command):
    return run.fill_card(
      "detector_card.txt",
      report,
      command,
      options=self._options,
      kept=_KEPT[report.kept],
      table="\n".join(_table(report.scores)),
    )


def _measured(detector, known, held_out):
  """Return the scores of the baselines by name, and the detector's."""
  from delf.learning import detector_network, detector_training

  scores = detector_training.compare(
    detector_network.finder(detector),
    [photo.boxes for photo in known],
    [(photo.image, photo.boxes) for photo in held_out],
  )
  names = (detector_training.WHOLE, detector_training.MEDIAN)
  return {name: scores[name] for name in names}, scores[detector_training.ALL]


def _table(scores):
  """Yield the lines of a Markdown table."""
  yield "| boxes | average precision | recall | precision | mean best overlap |"
  yield "|---|---|---|---|---|"
  for name, each in scores.items():
    yield (
      f"| {name} | {each.average_precision:.3f} | {each.recall:.3f} | "
      f"{each.precision:.3f} | {each.mean_overlap:.3f} |"
    )
