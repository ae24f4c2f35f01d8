"""Images of a collection with regions, ranked by their best region."""

import numpy as np

from delf.python.pipelines import collection_regions
from delf.python.retrieval import grouping


class Regions:
  """Which entries of an index are regions of which image.

  Attributes:
    images: list of str, names of the images.
  """

  def __init__(self, found, entries, only_whole=False):
    """Sorts out the entries.

    Args:
      found: collection.Collection with regions.
      entries: Names in its index.
      only_whole: Whether boxes are left out.
    """
    self._found, self._entries = found, entries
    place, group = {}, []
    for entry in entries:
      name = collection_regions.image_of(entry)
      group.append(place.setdefault(name, len(place)))
    self.images = list(place)
    self._group = np.array(group, np.int64)
    self._kept = None
    if only_whole:
      whole = map(collection_regions.is_whole, entries)
      self._kept = np.fromiter(whole, bool, len(entries))
    self._boxes = None

  def depth(self, k):
    """Returns how many entries must be ranked for the best k images."""
    if self._kept is not None or not len(self._group):
      return max(1, len(self._group))
    return min(k * int(np.bincount(self._group).max()), len(self._group))

  def rank(self, found, k):
    """Returns the grouping.GroupRanking of images, of a Ranking of entries."""
    return grouping.by_best(found, self._group, k, self._kept)

  def boxes(self, found, ids):
    """Returns the box of each image that was most like the query.

    Args:
      found: What `rank` returned.
      ids: [Q, n] int, ids of images in it, or -1.

    Returns:
      list of Q lists of n: (x1, y1, x2, y2) in pixels of the photo, or None for
      the whole image.
    """
    if self._boxes is None:
      self._boxes = collection_regions.boxes(self._found)
    return [
      [self._boxes(self._entries[p]) if p >= 0 else None for p in row]
      for row in found.parts_of(ids).tolist()
    ]


def make(found, entries, only_whole):
  """Returns Regions of a collection.Collection, None for one without."""
  if collection_regions.read(found) is None:
    return None
  return Regions(found, entries, only_whole)
