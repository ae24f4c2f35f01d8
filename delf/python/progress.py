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
