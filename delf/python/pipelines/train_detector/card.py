"""The model card of a detector that was trained on one's own boxes."""

import datetime
import os
import shlex

from delf.python.pipelines import report_card

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
