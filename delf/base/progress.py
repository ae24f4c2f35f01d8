"""Progress of long work: a bar on a terminal, else a line each minute."""

import sys
import time
from collections.abc import Iterable
from typing import Any

import tqdm

# Seconds from one line to the next where standard error is not a terminal.
_LINE_INTERVAL = 60
# Seconds that are longer than any program runs.
_LONGEST = 10**9


def track(iterable: Iterable, label: str, total: int | None = None) -> Any:
  """Iterate while showing progress; `set_postfix_str` adds a remark."""
  if total is None and hasattr(iterable, "__len__"):
    total = len(iterable)
  return _show(iterable=iterable, desc=label, total=total)


def count(label: str, total: int, done: int = 0) -> Any:
  """Show steps made, with `update(steps)`, `set_postfix_str` and `close`."""
  return _show(desc=label, total=total, initial=done)


def count_bytes(label: str, total: int | None = None, done: int = 0) -> Any:
  """Show the progress of a transfer as `count` does; total may be unknown."""
  # Of several at once, those that are done go off the screen.
  units = {"unit": "B", "unit_scale": True, "leave": None}
  return _show(desc=label, total=total, initial=done, **units)


def spend(label: str, total: float) -> Any:
  """Show, as `count` does, how much of a budget in any unit is spent."""
  form = "{desc}: {percentage:3.0f}% [{elapsed}<{remaining}{postfix}]"
  return _show(desc=label, total=total, bar_format=form)


def is_terminal() -> bool:
  """Return whether standard error is a terminal."""
  # None where a program is started without one.
  return sys.stderr is not None and sys.stderr.isatty()


def duration(seconds: float) -> str:
  """Return a time for people, as 59:59 or 100:00:00."""
  return tqdm.tqdm.format_interval(min(seconds, _LONGEST))


def say(line: str) -> None:
  """Print a line on standard output, above any bar."""
  tqdm.tqdm.write(line, file=sys.stdout)


def _show(**options):
  if is_terminal():
    return tqdm.tqdm(dynamic_ncols=True, **options)
  return _Lines(**options)


class _Lines:
  """Stands in for a bar; now and then writes a line."""

  def __init__(self, desc, total, iterable=(), initial=0, **units):
    units.pop("leave", None)
    self._iterable = iterable
    self._done = self._initial = initial
    self._format = {"prefix": desc, "total": total, "ncols": 0, **units}
    if "bar_format" in units:
      del self._format["ncols"]  # With it there would be no other form.
    self._start = self._last = time.monotonic()

  def __iter__(self):
    for item in self._iterable:
      yield item
      self.update(1)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    pass

  def close(self):
    pass

  def set_postfix_str(self, text, refresh=True):
    self._format["postfix"] = text

  def update(self, number):
    self._done += number
    now = time.monotonic()
    if now - self._last < _LINE_INTERVAL or sys.stderr is None:
      return
    self._last = now
    times = {"elapsed": now - self._start, "initial": self._initial}
    line = tqdm.tqdm.format_meter(self._done, **times, **self._format)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
