"""Progress of long work, on one line for people and in lines for logs."""

import sys
import time

import tqdm

# Seconds from one line to the next where standard error is not a terminal.
_LINE_INTERVAL = 60
# Seconds that are longer than any program runs.
_LONGEST = 10**9


def track(iterable, label, total=None):
  """Iterates while showing progress on standard error.

  On a terminal that is a bar; elsewhere, as in a log, a line each minute, and
  none for work that is shorter.

  Args:
    iterable: What to iterate over.
    label: Words for what is being done.
    total: Number of items, where `iterable` does not know it.

  Returns:
    An iterable with `set_postfix_str` for a word on the last item.
  """
  if total is None and hasattr(iterable, "__len__"):
    total = len(iterable)
  return _show(iterable=iterable, desc=label, total=total)


def count_bytes(label, total=None, done=0):
  """Shows the progress of a transfer on standard error, as `track` does.

  Args:
    label: Words for what is being transferred.
    total: Number of bytes, or None if it is not known.
    done: Number of bytes that are there already.

  Returns:
    A context manager with `update(number of bytes)`.
  """
  # Of several at once, those that are done go off the screen.
  units = {"unit": "B", "unit_scale": True, "leave": None}
  return _show(desc=label, total=total, initial=done, **units)


def count(label, total, done=0):
  """Shows how many of a number of steps are made, as `track` does.

  Args:
    label: Words for what is being done.
    total: Number of steps.
    done: Number of those that were made before.

  Returns:
    A context manager with `update(number of steps)`, `set_postfix_str(words)`
    and `close()`.
  """
  return _show(desc=label, total=total, initial=done)


def is_terminal():
  """Returns whether standard error is where a person looks at a bar."""
  # None where a program is started without one.
  return sys.stderr is not None and sys.stderr.isatty()


def duration(seconds):
  """Returns a time for people, as 59:59 or 100:00:00."""
  return tqdm.tqdm.format_interval(min(seconds, _LONGEST))


def say(line):
  """Prints a line on standard output, above what shows progress."""
  tqdm.tqdm.write(line, file=sys.stdout)


def spend(label, total):
  """Shows how much of a budget is spent, on standard error, as `track` does.

  Args:
    label: Words for what is being done.
    total: The budget, in any unit.

  Returns:
    A context manager with `update(what was spent since)`, and
    `set_postfix_str` for words on how it goes.
  """
  form = "{desc}: {percentage:3.0f}% [{elapsed}<{remaining}{postfix}]"
  return _show(desc=label, total=total, bar_format=form)


def _show(**options):
  if is_terminal():
    return tqdm.tqdm(dynamic_ncols=True, **options)
  return _Lines(**options)


class _Lines:
  """Writes now and then a line that says how far the work is."""

  def __init__(self, desc, total, iterable=(), initial=0, **units):
    units.pop("leave", None)
    self._iterable = iterable
    self._done = self._initial = initial
    self._words = {"prefix": desc, "total": total, "ncols": 0, **units}
    if "bar_format" in units:
      del self._words["ncols"]  # With it there would be no other form.
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
    """Does nothing: lines stay."""

  def set_postfix_str(self, words, refresh=True):
    """Sets what the next lines end with."""
    self._words["postfix"] = words

  def update(self, number):
    """Counts what was done, and writes a line if the last one is long ago."""
    self._done += number
    now = time.monotonic()
    if now - self._last < _LINE_INTERVAL:
      return
    self._last = now
    line = tqdm.tqdm.format_meter(
      self._done,
      elapsed=now - self._start,
      initial=self._initial,
      **self._words,
    )
    if sys.stderr is not None:
      sys.stderr.write(f"{line}\n")
      sys.stderr.flush()
