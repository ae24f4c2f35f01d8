"""`metrics.jsonl`: what a run measured, a line for each report."""

import contextlib
import json
import os

from absl import logging

from delf.python import files, line_file
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
    self._path = self._file = None
    self._sums, self._number = {}, 0
    self.rows = []

  def start(self, run):
    """Reads the lines of earlier runs, and drops those past where it goes on.

    A run that was killed leaves lines of steps that are made again, and perhaps
    half a line.
    """
    self._path = os.path.join(run.settings.logdir, NAME)
    self.rows = [row for row in read(self._path) if row["step"] <= run.step]
    self._write_all()
    if not files.is_remote(self._path):
      self._file = line_file.open_to_append(self._path)

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

  def close(self):
    """Closes the file."""
    if self._file is not None:
      # Lines are written out one by one: what fails here has failed before.
      with contextlib.suppress(OSError):
        self._file.close()

  def _add(self, step, metrics):
    self.rows.append({"step": step} | metrics)
    if self._file is None:
      # Object stores cannot append.
      self._write_all()
      return
    try:
      self._file.write(_line(self.rows[-1]))
      self._file.flush()
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._path) from error

  def _write_all(self):
    files.write_bytes(self._path, *map(_line, self.rows))


def _line(row):
  return f"{json.dumps(row)}\n".encode()


def read(path):
  """Reads the lines of a run.

  Args:
    path: Path of `metrics.jsonl`.

  Returns:
    list of dict of tag to float, with `step`, without a last line that lacks
    its end; [] if there is no file, or one of something else, which is logged.
  """
  try:
    lines = files.read_bytes(path).split(b"\n")
    rows = [json.loads(line) for line in lines[:-1]]
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
