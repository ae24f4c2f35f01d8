"""Local features of many images, kept while they fit in memory."""

import collections
import dataclasses

from delf.python import errors, feature_io
from delf.python.retrieval import verification


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
  """Images and their files of local features.

  Attributes:
    names: Sequence of N str.
    paths: Sequence of N paths of `.delf` or `.delg_local` files.
  """

  names: tuple[str, ...]
  paths: tuple[str, ...]


class SideCache:
  """Reads and prepares the features of images; the last used ones are kept."""

  def __init__(self, paths, most_bytes):
    """Creates it; nothing is read yet.

    Args:
      paths: Sequence of paths of feature files.
      most_bytes: Bytes that prepared features may take; one image may be over
        it.
    """
    self._paths = paths
    self._most_bytes = most_bytes
    self._sides = collections.OrderedDict()
    self._bytes = 0
    self.reads = 0

  def get(self, number):
    """Returns the features of an image.

    Args:
      number: Its place among the paths.

    Returns:
      verification.Side, or one line of str that says why there is none.
    """
    side = self._sides.get(number)
    if side is not None:
      self._sides.move_to_end(number)
      return side
    side = _load(self._paths[number])
    self.reads += 1
    self._sides[number] = side
    self._bytes += _size(side)
    while self._bytes > self._most_bytes and len(self._sides) > 1:
      _, oldest = self._sides.popitem(last=False)
      self._bytes -= _size(oldest)
    return side


def _load(path):
  try:
    found = feature_io.read_local_features(path)
    return verification.prepare(found.locations, found.descriptors)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{path}: ")


def _size(side):
  return 0 if isinstance(side, str) else side.nbytes
