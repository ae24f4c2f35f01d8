"""Which photos training never sees, so that the model is measured with them."""

import numpy as np

# One in so many is kept; of a class, one in so many.
_ONE_IN = 10
_ONE_IN_OF_CLASS = 5

# More say little more, and each takes time to be measured.
_MOST = 200

# Photos that were taken one after the other often show the same, and are called
# one after the other, so that they are kept in so many runs of names.
_RUNS = 5


def held_out(names, labels=None):
  """Chooses the photos to measure with.

  Args:
    names: list of str.
    labels: list of str or None, the class of each photo; or None.

  Returns:
    [N] bool. Without classes a tenth, and at least two, in up to five runs of
    the sorted names. With classes a fifth of each class that has three photos
    or more, at least one, the last ones by name.
  """
  if labels is None:
    return _by_runs(names)
  kept = np.zeros(len(names), bool)
  for members in _members(names, labels):
    if len(members) > 2:
      kept[members[-max(1, len(members) // _ONE_IN_OF_CLASS) :]] = True
  return _at_most(kept)


def _by_runs(names):
  order = np.argsort(names, kind="stable")
  number = min(_MOST, max(2, len(names) // _ONE_IN))
  runs = min(_RUNS, number // 2)
  kept = np.zeros(len(names), bool)
  for part, length in zip(
    np.array_split(order, runs), _shares(number, runs), strict=True
  ):
    start = (len(part) - length) // 2
    kept[part[start : start + length]] = True
  return kept


def _shares(number, parts):
  """Returns how many of `number` go to each part."""
  return [number // parts + (i < number % parts) for i in range(parts)]


def _members(names, labels):
  """Yields the places of each class's photos, by name."""
  places = {}
  for i in np.argsort(names, kind="stable"):
    if labels[i] is not None:
      places.setdefault(labels[i], []).append(i)
  yield from places.values()


def _at_most(kept):
  """Returns `kept` with no more than the most that are measured with."""
  places = np.flatnonzero(kept)
  if len(places) > _MOST:
    chosen = places[np.linspace(0, len(places) - 1, _MOST).astype(int)]
    kept = np.zeros_like(kept)
    kept[chosen] = True
  return kept
