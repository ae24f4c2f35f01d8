"""The end of a training: global head, export, choice, card and pictures."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np

from delf.python import files
from delf.python.pipelines.train import card, options, records, report

# A whitening is made anew of so many photos: of fewer it would be worse than
# that of the model that training began with.
_ENOUGH_TO_WHITEN = 512
_MOST_WHITENED = 2000

# Folder of each model that is measured, in that of the unfinished run.
FOLDERS = {
  report.BEFORE: "before",
  report.ALONE: "alone",
  report.AFTER: "after",
}
PICTURE = "match.jpg"


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a training.

  Attributes:
    singles: Classes of less than three photos.
    collected: collecting.Collected.
    scores: dict by name of measuring.Scores.
    curve: Rows of `learning.learn`.
    head: Words for how the global head was made.
    seconds: dict by phase.
  """

  singles: int
  collected: object
  scores: dict
  curve: list
  head: str
  seconds: dict


def fit_head(backbone, collected, told):
  """Sets the embedding of the global descriptor.

  Args:
    backbone: CompactBackbone, trained but for its embedding.
    collected: collecting.Collected.
    told: TrainOptions.

  Returns:
    Words for how it was made.
  """
  from delf.python.training.self_supervised import class_head, global_head

  side, words = collected.training, []
  enough = len(side.photos) >= _ENOUGH_TO_WHITEN
  if enough or told.start == options.SCRATCH:
    some, pairs = _some(side, told.seed)
    global_head.fit(backbone, some, pairs, told.seed)
    words.append(
      f"whitened anew with {len(some)} photos, a view of each and {len(pairs)} "
      "pairs of one place"
    )
  else:
    words.append("whitened as in the model that training began with")
  labelled = np.flatnonzero(side.labels >= 0)
  if len(labelled):
    first, last = class_head.fit(
      backbone,
      [side.photos[i].image for i in labelled],
      side.labels[labelled],
      class_head.Options(seed=told.seed),
    )
    words.append(
      f"turned by ArcFace on {len(collected.classes)} classes, the rest of the "
      f"network fixed (loss {first:.3f} to {last:.3f})"
    )
  return ", ".join(words)


def _some(side, seed):
  """Returns photos, not too many, and the pairs among them."""
  order = np.random.default_rng((seed, 4)).permutation(len(side.photos))
  chosen = np.sort(order[:_MOST_WHITENED])
  place = {int(old): new for new, old in enumerate(chosen)}
  pairs = [
    dataclasses.replace(
      pair, first=place[pair.first], second=place[pair.second]
    )
    for pair in side.pairs
    if pair.first in place and pair.second in place
  ]
  return [side.photos[i] for i in chosen], pairs


def finish(outcome, folder, out, told, overwrite):
  """Writes what goes with the best model, and moves it to its place.

  Args:
    outcome: Outcome.
    folder: pathlib.Path of the unfinished run, with the models.
    out: pathlib.Path of the model to be.
    told: records.Told.
    overwrite: Whether a finished model there is replaced.

  Returns:
    report.TrainReport.
  """
  from delf.python.training.model import export_folder

  found = _report(outcome, out)
  chosen = folder / FOLDERS[found.kept]
  _write_beside(outcome, found, folder, chosen, told)
  with export_folder.destination(out, overwrite) as new:
    shutil.copytree(chosen, new, ignore=shutil.ignore_patterns(PICTURE))
  return found


def _report(outcome, out):
  collected = outcome.collected
  return report.TrainReport(
    out=os.fspath(out),
    steps=outcome.curve[-1]["step"],
    photos=len(collected.training.photos),
    held_out=len(collected.held_out.photos),
    classes=len(collected.classes),
    pairs=len(collected.training.pairs),
    scores=outcome.scores,
    seconds=outcome.seconds,
    failed=collected.failures,
  )


def _write_beside(outcome, found, folder, chosen, told):
  """Writes configuration, record, pictures and card into the chosen model."""
  from delf.python.training.self_supervised import export_compact

  path = os.fspath(pathlib.Path(found.out).resolve())
  text = export_compact.configuration(path).partition("\n")[2]
  text = f"# A model that `delf train` made; see MODEL_CARD.md.\n{text}"
  files.write_bytes(chosen / "config.pbtxt", text.encode())
  for name in (report.BEFORE, report.AFTER):
    picture = folder / FOLDERS[name] / PICTURE
    shutil.copy(picture, chosen / f"match_{name}.jpg")
  _draw(chosen / "curves.png", outcome.curve)
  record = {"settings": told.settings, "kept": found.kept}
  record |= dataclasses.asdict(found) | {"curve": outcome.curve}
  data = json.dumps(record, indent=2).encode()
  files.write_bytes(chosen / records.RECORD, data)
  facts = _facts(outcome, found, told)
  files.write_bytes(chosen / "MODEL_CARD.md", card.write(facts).encode())


def _draw(path, curve):
  from delf.python import viz_training

  steps = [row["step"] for row in curve]
  columns = {
    name: (steps, [row.get(name, np.nan) for row in curve])
    for name in ("local", "attention", "keypoint", "found", "held_out")
  }
  panels = {
    "loss": {
      "descriptors": columns["local"],
      "attention": columns["attention"],
      "keypoints": columns["keypoint"],
    },
    "share of points found": {
      "training": columns["found"],
      "held out": columns["held_out"],
    },
  }
  caption = (
    "found: points of two views that are each other's nearest among all of the "
    "batch; a batch of held-out photos has fewer pairs"
  )
  viz_training.draw_curves(path, panels, "Learning curves", caption)


def _facts(outcome, found, told):
  """Returns what `card.write` takes."""
  return {
    "out": found.out,
    "start": told.options.start,
    "kept": found.kept,
    "data": list(_data(outcome, found, told.options)),
    "method": list(_method(outcome, found, told.options)),
    "limits": list(_limits(found)),
    "scores": found.scores,
    "seconds": found.seconds,
    "steps": found.steps,
    "command": list(told.command) or ["delf", "train"],
    "exact": told.options.steps is not None,
  }


def _data(outcome, found, told):
  training, held_out = outcome.collected.training, outcome.collected.held_out
  yield (
    f"{found.photos} photos to train on, {found.held_out} held out, scaled "
    f"down to {told.size} pixels; {len(found.failed)} could not be used."
  )
  yield (
    f"{len(training.pairs)} pairs of two photos of one place that RootSIFT is "
    f"sure of to train on, {len(held_out.pairs)} held out."
  )
  if found.classes:
    yield (
      f"{found.classes} classes; a fifth of the photos of each is held out and "
      f"looked for among all others (none of {outcome.singles} classes of less "
      "than three photos)."
    )


def _method(outcome, found, told):
  batch = outcome.collected.training.batch(told.batch)
  yield (
    f"Local features: {found.steps} steps of {batch} pairs of views of "
    f"{told.view} pixels, self-supervised as the embedded model: two views of "
    "one photo under random homographies and light, and pairs of two photos."
  )
  yield (
    f"Budget {told.budget()}, highest learning rate {told.highest_rate:g}, "
    f"seed {told.seed}."
  )
  yield f"Global descriptor: {outcome.head}."


def _limits(found):
  real = found.scores[report.AFTER].real[1]
  if found.held_out < 50 or real < 20:
    yield (
      f"Measured with {found.held_out} photos and {real} pairs of two: small "
      "differences mean nothing."
    )
