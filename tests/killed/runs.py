"""Runs commands whole, and then killed and repeated."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
  """One command, run in a folder of its own.

  Attributes:
    arguments: Function of a folder with the inputs, and of the folder to work
      in: arguments of `delf`.
    template: Folder that the work begins as a copy of, below that of the
      inputs, or None for one that is not there.
    compared: Function of the folder and of what was printed: what must be
      equal in the end.
    done: Name of a file that says that all is done: to repeat it is refused.
    program: Arguments of Python that the others follow.
  """

  arguments: Callable
  template: str | None
  compared: Callable
  done: str | None = None
  program: tuple = ("-m", "delf")


class Killer:
  """Runs one command whole, then killed and repeated."""

  def __init__(self, case, inputs, scratch, seed):
    self._case, self._inputs = case, inputs
    self._scratch, self._random = scratch, random.Random(seed)
    self.begin = self.end = 0.0
    self._expected = self._whole()

  def _whole(self):
    work, process = self._start()
    begin = time.monotonic()
    template = _pieces(work)
    while process.poll() is None and not self.begin:
      if _pieces(work) != template:
        self.begin = time.monotonic() - begin
      time.sleep(0.005)
    expected = self._finish(work, process)
    self.end = time.monotonic() - begin
    return expected

  def _start(self):
    work = pathlib.Path(tempfile.mkdtemp(dir=self._scratch)) / "work"
    if self._case.template:
      shutil.copytree(self._inputs / self._case.template, work)
    return work, self._run(work)

  def _run(self, work):
    command = [sys.executable, *self._case.program]
    command += self._case.arguments(self._inputs, work)
    # A group of its own, so that processes that match are killed too.
    return subprocess.Popen(
      command, stdout=-1, stderr=-1, text=True, start_new_session=True
    )

  def _finish(self, work, process, was_done=False):
    printed, said = process.communicate()
    assert was_done or process.returncode == 0, said
    return self._case.compared(work, printed)

  def kill(self):
    """Kills and repeats once; returns (moment, what there was, lost, equal)."""
    while True:
      work, process = self._start()
      moment = self._random.uniform(0.7 * self.begin, self.end)
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=moment)
      if process.poll() is None:
        break
      process.communicate()  # It was done already.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    pieces = _pieces(work)
    was_done = self._case.done and (work / self._case.done).exists()
    again = self._finish(work, self._run(work), was_done)
    equal = again == self._expected
    after = _pieces(work)
    lost = [name for name, piece in pieces.items() if after.get(name) != piece]
    return moment, _words(pieces), lost, equal


def _pieces(folder):
  """Returns each piece of finished work, and what tells it from another one.

  A piece is a feature file, a picture, a line of a record, or an iteration. A
  picture whose boxes were not written yet may be drawn again.
  """
  found = {}
  for path in folder.rglob("*"):
    kinds = (".delf", ".delg_global", ".boxes")
    if path.suffix in kinds and path.name[0] != ".":
      found["files", path] = path.stat().st_mtime_ns
    if path.name.endswith("_viz.jpg") and path.name[0] != ".":
      found["pictures", path] = path.stat().st_size
    if path.name == "verified_pairs.jsonl":
      lines = path.read_bytes().split(b"\n")[:-1]
      found |= {("pairs", i): line for i, line in enumerate(lines)}
    elif path.name == "state.npz" or path.name == "codebook.json":
      steps = enumerate(_objectives(path))
      found |= {("iterations", i): objective for i, objective in steps}
    elif path.suffix == ".index":
      found[path.name, 0] = None
  return found


def _objectives(path):
  if path.suffix == ".json":
    return json.loads(path.read_bytes())["objectives"]
  with np.load(path) as state:
    return state["objectives"].tolist()


def _words(pieces):
  counts = {}
  for kind, _ in pieces:
    counts[kind] = counts.get(kind, 0) + 1
  return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
