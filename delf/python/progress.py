"""Progress of long work, on one line for people and in lines for logs."""

import sys

import tqdm


def track(iterable, label, total=None):
  """Iterates while showing progress on standard error.

  Nothing is shown where standard error is not a terminal, so that piped output
  and logs stay clean.

  Args:
    iterable: What to iterate over.
    label: Words for what is being done.
    total: Number of items, where `iterable` does not know it.

  Returns:
    tqdm.tqdm, an iterator with `set_postfix_str` for a word on the last item.
  """
  return tqdm.tqdm(
    iterable,
    desc=label,
    total=total,
    disable=not sys.stderr.isatty(),
    dynamic_ncols=True,
  )


def count_bytes(label, total=None, done=0):
  """Shows the progress of a transfer on standard error, if it is a terminal.

  Args:
    label: Words for what is being transferred.
    total: Number of bytes, or None if it is not known.
    done: Number of bytes that are there already.

  Returns:
    tqdm.tqdm, a context manager with `update(number of bytes)`.
  """
  return tqdm.tqdm(
    desc=label,
    total=total,
    initial=done,
    unit="B",
    unit_scale=True,
    disable=not sys.stderr.isatty(),
    dynamic_ncols=True,
  )
