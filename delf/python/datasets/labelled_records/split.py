"""Photos divided into those to train on and those to validate with."""

import numpy as np

from delf.python import errors


def train_and_validation(photos, share, seed):
  """Divides photos so that every class is trained, and validated if it can be.

  Of each class the share, rounded down, is for validation: at least one photo,
  and never all: the only photo of a class is for training. Else the choice is
  the original's.

  Args:
    photos: list of photo_list.Photo, labelled.
    share: From 0 to under 1.
    seed: int from 0.

  Returns:
    Two lists of Photo, each in random order, for training and validation.

  Raises:
    InputError: If the share is another.
  """
  if not 0 < share < 1:
    raise errors.InputError("a share between 0 and 1 to validate with", share)
  # As the original seeds it; a RandomState of a number draws other numbers.
  random = np.random.RandomState(
    np.random.MT19937(np.random.SeedSequence(seed))
  )
  training, validation = [], []
  for places in _by_class(photos):
    random.shuffle(places)
    number = min(max(1, int(share * len(places))), len(places) - 1)
    validation += places[:number].tolist()
    training += places[number:].tolist()
  # In this order, as each takes random numbers.
  validation = _shuffled(photos, validation, random)
  return _shuffled(photos, training, random), validation


def shuffled(photos, seed):
  """Returns photos in a random order."""
  random = np.random.Generator(np.random.Philox(seed))
  return [photos[i] for i in random.permutation(len(photos))]


def _by_class(photos):
  """Iterates over the places of each class's photos, [n] int, ascending."""
  labels = np.array([photo.label for photo in photos])
  order = np.argsort(labels, kind="stable")
  bounds = np.flatnonzero(np.diff(labels[order])) + 1
  yield from np.split(order, bounds)


def _shuffled(photos, places, random):
  order = np.arange(len(places))
  random.shuffle(order)
  return [photos[places[i]] for i in order]
