"""The model card of a training: data, settings, measurements, how to repeat."""

import datetime
import os
import platform
import shlex
import textwrap

from delf.python.pipelines import report_card

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
