"""Finding images of a collection by names that people write."""

import os

from delf.python import errors, files

_ENDINGS = (*files.IMAGES, files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)


class ImagePlaces:
  """Where the images of a collection are, by name.

  A name may be written as it is in the collection, without its ending, or
  without its folders and ending, where that leaves one image only.
  """

  def __init__(self, names):
    """Starts with the names of a collection."""
    self._levels = []
    for shorten in (str, _without_ending, _base):
      found = {}
      for i, name in enumerate(names):
        # None where two have it.
        key = shorten(name)
        found[key] = i if key not in found else None
      self._levels.append((shorten, found))

  def __contains__(self, name):
    return any(shorten(name) in found for shorten, found in self._levels)

  def find(self, name, where):
    """Returns the place of an image.

    Args:
      name: Its name.
      where: File and place in it that the name is from, for the error.

    Raises:
      InputError: If there is none, or more than one.
    """
    for shorten, found in self._levels:
      place = found.get(shorten(name), -1)
      if place is None:
        raise errors.InputError(
          "a name of one image", f"'{name}' of two", where
        )
      if place >= 0:
        return place
    raise errors.InputError("an image of the collection", f"'{name}'", where)


def first_twice(names):
  """Returns the first of some names that was there before, or None."""
  seen = set()
  for name in names:
    if name in seen:
      return name
    seen.add(name)
  return None


def _without_ending(name):
  stem, ending = os.path.splitext(name)
  return stem if ending.lower() in _ENDINGS else name


def _base(name):
  return _without_ending(os.path.basename(name))
