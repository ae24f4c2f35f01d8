"""Progress of long work: a bar on a terminal or in a notebook, else lines."""

import contextlib
import contextvars
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import tqdm

# Seconds from one line to the next where standard error is not a terminal.
_LINE_INTERVAL = 60
# Seconds that are longer than any program runs.
_LONGEST = 10**9

# Whether progress is shown, or a function that is called instead with a label,
# the steps done, and their total (None if unknown).
Progress = bool | Callable[[str, int, int | None], object]
_progress: contextvars.ContextVar[Progress] = contextvars.ContextVar(
  "progress", default=True
)


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[None]:
  """Show the progress of the work inside, or not, or pass it to a function."""
  token = _progress.set(progress)
  try:
    yield
  finally:
    _progress.reset(token)


def is_shown() -> bool:
  """Return whether progress is shown, or passed to a function."""
  return bool(_progress.get())


def track(iterable: Iterable, label: str, total: int | None = None) -> Any:
  """Iterate while showing progress; `set_postfix_str` adds a remark."""
  if total is None and isinstance(iterable, Sized):
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
  progress = _progress.get()
  if callable(progress):
    return _Calls(progress, **options)
  if progress and is_terminal():
    return tqdm.tqdm(dynamic_ncols=True, **options)
  if progress and (bar := _notebook_bar()):
    return bar(**options)
  return _Lines(is_silent=not progress, **options)


@functools.cache
def _notebook_bar():
  """Return the bar of a notebook's cells, or None outside of a notebook."""
  if "ipykernel" not in sys.modules:
    return None
  if importlib.util.find_spec("ipywidgets"):
    from tqdm import notebook

    return notebook.tqdm
  return functools.partial(tqdm.tqdm, ncols=80)


class _Lines(contextlib.AbstractContextManager):
  """Stands in for a bar; writes a line each minute."""

  def __init__(
    self, desc, total, iterable=(), initial=0, is_silent=False, **units
  ):
    units.pop("leave", None)
    self._is_silent = is_silent
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

  def __exit__(self, *error):
    pass

  def close(self):
    pass

  def set_postfix_str(self, text, refresh=True):
    self._format["postfix"] = text

  def update(self, number):
    self._done += number
    now = time.monotonic()
    is_due = now - self._last >= _LINE_INTERVAL and not self._is_silent
    if not is_due or sys.stderr is None:
      return
    self._last = now
    times = {"elapsed": now - self._start, "initial": self._initial}
    line = tqdm.tqdm.format_meter(self._done, **times, **self._format)
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class _Calls(_Lines):
  """Passes each step to a function of the caller."""

  def __init__(self, function, desc, total, **options):
    super().__init__(desc, total, **options)
    self._function, self._label, self._total = function, desc, total
    self.update(0)

  def update(self, number):
    self._done += number
    self._function(self._label, self._done, self._total)
