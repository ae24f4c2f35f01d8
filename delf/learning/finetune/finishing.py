"""The end of a training: global head, export, choice, card and pictures."""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shlex
import shutil
import textwrap

import numpy as np

from delf.base import files
from delf.evaluation import report_card
from delf.learning.finetune import records

_CARD = """\
# {name}

{head}

## Use

```
delf match A.jpg B.jpg --model {folder}
delf index PHOTOS --out my.index --model {folder}
```

`config.pbtxt` beside this file has its settings; `weights.npz` is what
`delf train --from {folder}` goes on from.

## Data

{data}

## Method

{method}

## Measurements

All with held-out photos, which training has not seen.

{table}

- before: the model that training began with.{alone}
- Pairs are matched with a ratio test of 0.95 and a homography with a threshold
  of 1.5 % of the longer side. Solved: 15 inliers, of which 70 % agree with the
  truth. The truth of pairs of two photos is RootSIFT's, which is at home there;
  synthetic pairs are two views of one photo under random homographies and
  light.
{overall}

![learning curves](curves.png)

One held-out pair, before and after:

![matches before](match_before.jpg)

![matches after](match_after.jpg)

## Time and hardware

{time}

## How to make it again

```
{command}
```

{again}

## Limits

- Trained and measured on one collection: on other photos it may be worse than
  the model that it began with. Measure there before it is used.
{limits}"""

_ALONE = """
- labels alone: that model, with a new global head of the classes."""

_KEPT = {
  "before": "**Training brought no gain on held-out photos: its weights are "
  "those that it began with.**",
  "labels alone": "Its global head is that of the classes; the rest of the "
  "network is as before, as training it brought no gain on held-out photos.",
  "after": "Its weights are the trained ones.",
}


def write(facts):
  """Returns the text of a card.

  Args:
    facts: dict: `out`, `start`, `kept` (a key of `scores`), `data`, `method`
      and `limits` (lines), `scores` (dict by name of measuring.Scores),
      `seconds` (dict by phase), `steps`, `command` (list of str), `exact`
      (whether steps were fixed).
  """
  scores = facts["scores"]
  day = f"{datetime.date.today():%d %B %Y}"
  parts = "the average precision and the share of solved pairs"
  if scores["after"].nearest is not None:
    parts = "the average precision, the share of solved pairs and the mAP"
  return _CARD.format(
    name=os.path.basename(os.path.abspath(facts["out"])),
    head=_wrap(
      "Local features with attention and a global descriptor, made by "
      f"`delf train` on {day}, from `{facts['start']}`. {_KEPT[facts['kept']]}"
    ),
    folder=shlex.quote(os.fspath(facts["out"])),
    data=_list(facts["data"]),
    method=_list(facts["method"]),
    table="\n".join(_table(scores)),
    alone=_ALONE if "labels alone" in scores else "",
    overall=_list(
      [
        f"overall: the mean of {parts}. The highest is kept; it was chosen "
        "with these photos, so that its own figures are a little high."
      ]
    ),
    time=_time(facts),
    command=shlex.join(facts["command"]),
    again=_again(facts["exact"]),
    limits="".join(f"{_list([line])}\n" for line in facts["limits"]),
  )


def rows(scores):
  """Returns tuples of what was measured and the words for it, a row each.

  Args:
    scores: dict by name of measuring.Scores; the first row has the names.
  """
  every = list(scores.values())
  found = [
    ("held-out photos", *scores),
    (
      "average precision of pairs against unrelated ones",
      *(_number(each.average_precision) for each in every),
    ),
    ("pairs of two photos solved", *_of("real", every)),
    ("synthetic pairs solved", *_of("synthetic", every)),
    ("median inliers", *(f"{each.inliers:.0f}" for each in every)),
  ]
  if every[0].nearest is not None:
    maps = (_number(each.mean_average_precision) for each in every)
    found += [
      ("mAP of finding photos of the class", *maps),
      ("nearest photo is of the class", *_of("nearest", every)),
    ]
  return [*found, ("overall", *(f"{each.overall():.4f}" for each in every))]


def _number(value):
  return "none unrelated" if value is None else f"{value:.3f}"


def _of(name, scores):
  return ("{} of {}".format(*getattr(each, name)) for each in scores)


def _table(scores):
  """Returns the lines of a Markdown table of `rows`."""
  lines = ["| " + " | ".join(row) + " |" for row in rows(scores)]
  return [lines[0], "|---" * (1 + len(scores)) + "|", *lines[1:]]


def _list(lines):
  return "\n".join(_wrap(f"- {line}", "  ") for line in lines)


def _wrap(text, indent=""):
  """Returns text in lines that fit; words, as of paths, are not broken."""
  return textwrap.fill(
    text,
    80,
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  )


def _time(facts):
  phases = ", ".join(
    f"{name} {seconds:.0f} s" for name, seconds in facts["seconds"].items()
  )
  versions = report_card.versions()
  made = ", ".join(f"{name} {version}" for name, version in versions.items())
  return _wrap(f"{facts['steps']} steps; {phases}. {_hardware()}. {made}.")


def _hardware():
  """Returns words for the machine: cores and accelerators."""
  import tensorflow as tf

  gpus = [
    tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    for gpu in tf.config.list_physical_devices("GPU")
  ]
  cores = f"{os.cpu_count()} processor cores ({platform.machine()})"
  return ", ".join([cores, *gpus])


def _again(exact):
  if exact:
    return _wrap(
      "The same photos, versions and processor give the same weights, whether "
      "the run is stopped in between or not."
    )
  return _wrap(
    "Time, not the number of steps, is fixed, so that another run gives other "
    "weights; `--steps` fixes them."
  )


# Names of what is measured.
BEFORE, ALONE, AFTER = "before", "labels alone", "after"

_SAID = {
  BEFORE: "no gain on held-out photos, so that the model that it began with "
  "was kept",
  ALONE: "the first model with a global head of the classes; training the rest "
  "brought no gain on held-out photos",
  AFTER: "the trained model",
}


@dataclasses.dataclass(frozen=True)
class TrainReport:
  """What became of a training.

  Attributes:
    out: Folder of the model.
    steps: Steps made.
    photos: Photos that were trained on.
    held_out: Photos that were measured with.
    classes: Number of classes, 0 without.
    pairs: Pairs of two photos that were trained on.
    scores: dict by BEFORE, ALONE (with classes) and AFTER of measuring.Scores.
    seconds: dict by phase.
    failed: engine.Failure of each photo that was left out.
  """

  out: str
  steps: int
  photos: int
  held_out: int
  classes: int
  pairs: int
  scores: dict
  seconds: dict
  failed: tuple = ()

  @property
  def kept(self):
    """Name of the best in `scores`, the first of equal ones."""
    return max(self.scores, key=lambda name: self.scores[name].overall())

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    return 1 if self.failed else 0

  def lines(self):
    """Returns lines for people."""
    classes = f" in {self.classes} classes" if self.classes else ""
    total = sum(self.seconds.values())
    yield (
      f"{self.steps} steps on {self.photos} photos{classes} in {total:.0f} s; "
      f"{self.held_out} photos held out"
    )
    found = rows(self.scores)
    width = max(len(row[0]) for row in found)
    for name, *values in found:
      yield f"  {name:<{width}}" + "".join(f"{v:>14}" for v in values)
    yield f"{self.out}: {_SAID[self.kept]}; MODEL_CARD.md says all of it"


# A whitening is made anew of so many photos: of fewer it would be worse than
# that of the model that training began with.
_ENOUGH_TO_WHITEN = 512
_MOST_WHITENED = 2000

# Folder of each model that is measured, in that of the unfinished run.
FOLDERS = {
  BEFORE: "before",
  ALONE: "alone",
  AFTER: "after",
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
  from delf.learning import compact_heads

  side, words = collected.training, []
  enough = len(side.photos) >= _ENOUGH_TO_WHITEN
  if enough or told.start == records.SCRATCH:
    some, pairs = _some(side, told.seed)
    compact_heads.fit_global_head(backbone, some, pairs, told.seed)
    words.append(
      f"whitened anew with {len(some)} photos, a view of each and {len(pairs)} "
      "pairs of one place"
    )
  else:
    words.append("whitened as in the model that training began with")
  labelled = np.flatnonzero(side.labels >= 0)
  if len(labelled):
    first, last = compact_heads.fit(
      backbone,
      [side.photos[i].image for i in labelled],
      side.labels[labelled],
      compact_heads.Options(seed=told.seed),
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
  from delf.networks import exporting

  found = _report(outcome, out)
  chosen = folder / FOLDERS[found.kept]
  _write_beside(outcome, found, folder, chosen, told)
  with exporting.destination(out, overwrite) as new:
    shutil.copytree(chosen, new, ignore=shutil.ignore_patterns(PICTURE))
  return found


def _report(outcome, out):
  collected = outcome.collected
  return TrainReport(
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
  from delf.learning import compact_training

  path = os.fspath(pathlib.Path(found.out).resolve())
  text = compact_training.configuration(path).partition("\n")[2]
  text = f"# A model that `delf train` made; see MODEL_CARD.md.\n{text}"
  files.write_bytes(chosen / "config.pbtxt", text.encode())
  for name in (BEFORE, AFTER):
    picture = folder / FOLDERS[name] / PICTURE
    shutil.copy(picture, chosen / f"match_{name}.jpg")
  _draw(chosen / "curves.png", outcome.curve)
  record = {"settings": told.settings, "kept": found.kept}
  record |= dataclasses.asdict(found) | {"curve": outcome.curve}
  data = json.dumps(record, indent=2).encode()
  files.write_bytes(chosen / records.RECORD, data)
  facts = _facts(outcome, found, told)
  files.write_bytes(chosen / "MODEL_CARD.md", write(facts).encode())


def _draw(path, curve):
  from delf.pictures import figures

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
  figures.draw_curves(path, panels, "Learning curves", caption)


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
  real = found.scores[AFTER].real[1]
  if found.held_out < 50 or real < 20:
    yield (
      f"Measured with {found.held_out} photos and {real} pairs of two: small "
      "differences mean nothing."
    )
