"""Names of the images of an index, each once."""

import collections

from delf.python import errors


class NameList:
  """A list of names that knows where each is."""

  def __init__(self, names=(), path=None):
    """Starts with names; `path` is the file they are of, for errors."""
    self.names = []
    self._ids = {}
    self.add(names, path=path)

  def __len__(self):
    return len(self.names)

  def add(self, names, number=None, path=None):
    """Adds names at the end; all or none.

    Args:
      names: Sequence of str.
      number: How many there must be, or None.
      path: File that they are of, for errors.

    Raises:
      InputError: If one is not text, is there already, or comes twice, or if
        they are not as many as there must be.
    """
    names = self.check(names, number, path)
    self._ids |= {name: len(self) + i for i, name in enumerate(names)}
    self.names.extend(names)

  def check(self, names, number=None, path=None):
    """Raises what `add` would; returns the names as a list."""
    if isinstance(names, str):
      raise errors.InputError("a list of names", "one name", path)
    names = list(names)
    if number is not None and len(names) != number:
      raise errors.InputError(f"{number} names", f"{len(names)}", path)
    for name in names:
      if not isinstance(name, str):
        raise errors.InputError("names as text", repr(name), path)
    counts = collections.Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
      raise errors.InputError("each name once", _few(twice, "twice"), path)
    known = [name for name in names if name in self._ids]
    if known:
      raise errors.InputError(
        "names that are not in the index yet", _few(known), path
      )
    return names

  def ids(self, names):
    """Returns the places of names, list of int.

    Raises:
      InputError: If a name is not there; it names it.
    """
    names = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in self._ids]
    if unknown:
      raise errors.InputError("names in the index", _few(unknown))
    return [self._ids[name] for name in names]

  def kept(self, keep):
    """Returns a NameList of those names that are in [N] bool."""
    pairs = zip(self.names, keep, strict=True)
    return NameList(name for name, stays in pairs if stays)


def _few(names, words=""):
  """Returns some of the names, and how many there are."""
  more = f" and {len(names) - 3} more" if len(names) > 3 else ""
  return f"{', '.join(map(repr, names[:3]))}{more} {words}".rstrip()
