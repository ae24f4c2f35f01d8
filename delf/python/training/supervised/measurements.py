"""`metrics.jsonl`: what a run measured, a line for each report."""

import json
import os

from absl import logging

from delf.python import files
from delf.python.training.supervised import observers, stepping

NAME = "metrics.jsonl"

# Of these a line has the last one; of all else the mean since the line before.
_LAST = (stepping.LEARNING_RATE, "desc/scale_factor")


class Measurements(observers.Observer):
  """Writes lines, each step once, however often a run is stopped.

  Attributes:
    rows: list of dict of tag to float, with `step`, in the order of steps.
  """

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one line to the next.
    """
    self._every = every
    self._path = None
    self._sums, self._number = {}, 0
    self.rows = []

  def start(self, run):
    """Reads the lines of earlier runs, up to where this one goes on."""
    self._path = os.path.join(run.settings.logdir, NAME)
    self.rows = [row for row in read(self._path) if row["step"] <= run.step]

  def on_step(self, step, metrics, batch):
    """Counts a step, and writes a line at each report."""
    for name, value in metrics.items():
      total = 0.0 if name in _LAST else self._sums.get(name, 0.0)
      self._sums[name] = total + value
    self._number += 1
    if step % self._every == 0:
      means = {
        name: value if name in _LAST else value / self._number
        for name, value in self._sums.items()
      }
      self._sums, self._number = {}, 0
      self._add(step, means)

  def on_validation(self, step, metrics):
    """Writes a line."""
    self._add(step, metrics)

  def _add(self, step, metrics):
    self.rows.append({"step": step} | metrics)
    text = "".join(json.dumps(row) + "\n" for row in self.rows)
    files.write_bytes(self._path, text.encode())


def read(path):
  """Reads the lines of a run.

  Args:
    path: Path of `metrics.jsonl`.

  Returns:
    list of dict of tag to float, with `step`; [] if there is no file, or one
    of something else, which is logged.
  """
  try:
    lines = files.read_bytes(path).splitlines()
    rows = [json.loads(line) for line in lines]
    if all(isinstance(row["step"], int) for row in rows):
      return rows
  except FileNotFoundError:
    return []
  except (ValueError, KeyError, TypeError):
    pass
  logging.warning("%s: no measurements of a run, written anew", path)
  return []


def curve(rows, tag):
  """Returns the steps and the values of one tag, two lists."""
  found = [(row["step"], row[tag]) for row in rows if tag in row]
  return [step for step, _ in found], [value for _, value in found]
