"""Collections that are searched by region: each region is an entry of its own.

`<image>_0` is the whole image, `<image>_1` and so on are its boxes.
"""

import dataclasses
import json
import math
import os

import numpy as np

from delf.base import errors, files
from delf.extraction import output_folder, regions
from delf.indexes import ranking
from delf.search import collection

# Says that a collection has regions, and which.
RECORD = "regions.json"
BOXES = "boxes"

# What stands behind the name of an image for the whole of it.
_WHOLE = "_0"


@dataclasses.dataclass(frozen=True)
class RegionSettings:
  """Which regions the images of a collection have.

  Attributes:
    detector: Name or folder of the detector.
    threshold: The least score of a box.
    most: The most boxes of an image, the best; None for all.
  """

  detector: str
  threshold: float = 0.1
  most: int | None = None

  def __post_init__(self):
    if not math.isfinite(self.threshold):
      raise errors.InputError("a finite threshold", f"{self.threshold}")
    if os.path.exists(self.detector):
      # The collection may be added to from another folder.
      object.__setattr__(self, "detector", os.path.abspath(self.detector))


def read(found):
  """Returns the RegionSettings of a collection.Collection, None without."""
  path = found.folder / RECORD
  if not path.exists():
    return None
  try:
    return RegionSettings(**json.loads(files.read_bytes(path)))
  except (ValueError, TypeError, RecursionError):
    raise errors.InputError(
      "settings of regions", "something else", path
    ) from None


def agree(found, wanted, device=None):
  """Gives a new collection its regions, or checks those of one that is there.

  Args:
    found: collection.Collection; not written yet where it is new.
    wanted: RegionSettings, or None for those that it has.
    device: Device that a detector is tried on, or None for the best.

  Returns:
    RegionSettings, or None for a collection without regions.

  Raises:
    InputError: If one is there with others, or the detector of a new one does
      not load; nothing is written then.
  """
  there = read(found)
  if collection.exists(found.folder):
    if wanted not in (None, there):
      raise errors.InputError(
        "the regions that the index was made with"
        f" ({_words(there)}), or another index",
        _words(wanted),
        found.folder,
      )
    return there
  if wanted is not None:
    # What is recorded is kept for good, so that it has to be a detector.
    from delf.inference import detector

    detector.load(wanted.detector, device)
    text = json.dumps(dataclasses.asdict(wanted), indent=1) + "\n"
    files.write_bytes(found.folder / RECORD, text.encode())
  elif there is not None:
    (found.folder / RECORD).unlink()  # Of a run that was ended at its start.
  return wanted


def extract(found, settings, images, config, say, **options):
  """Extracts the regions of photos into a collection.

  Args:
    found: collection.Collection.
    settings: RegionSettings.
    images: Paths of photos.
    config: delf_config_pb2.DelfConfig.
    say: Function of a line: called for each photo that failed.
    **options: As of `extract_regions.extract_regions`.

  Returns:
    region_report.RegionReport.
  """
  return regions.extract_and_say(
    images,
    config,
    settings.detector,
    found.features,
    found.folder / BOXES,
    None,
    say=say,
    threshold=settings.threshold,
    most=settings.most,
    **options,
  )


def whole(found, names):
  """Returns the names of the feature files of whole images.

  Args:
    found: collection.Collection, with regions or without.
    names: Names of images.
  """
  if read(found) is None:
    return list(names)
  return [f"{name}{_WHOLE}" for name in names]


def image_of(entry):
  """Returns the name of the image that a region is of."""
  return entry.rpartition("_")[0]


def images_of(found, entries):
  """Returns the name of the image of each entry of a collection's index."""
  if read(found) is None:
    return list(entries)
  return list(map(image_of, entries))


def is_whole(entry):
  """Returns whether a region is the whole image."""
  return entry.endswith(_WHOLE)


def boxes(found):
  """Returns a function from an entry to its box.

  That is (x1, y1, x2, y2) in pixels of the photo, or None for the whole image.

  Args:
    found: collection.Collection with regions.
  """
  return output_folder.PhotoRecord(found.features).box


def _words(settings):
  if settings is None:
    return "none"
  most = "" if settings.most is None else f", at most {settings.most}"
  return f"{settings.detector} from {settings.threshold:g} on{most}"


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
      name = image_of(entry)
      group.append(place.setdefault(name, len(place)))
    self.images = list(place)
    self._group = np.array(group, np.int64)
    self._kept = None
    if only_whole:
      whole = map(is_whole, entries)
      self._kept = np.fromiter(whole, bool, len(entries))
    self._boxes = None

  def depth(self, k):
    """Returns how many entries must be ranked for the best k images."""
    if self._kept is not None or not len(self._group):
      return max(1, len(self._group))
    return min(k * int(np.bincount(self._group).max()), len(self._group))

  def rank(self, found, k):
    """Returns the grouping.GroupRanking of images, of a Ranking of entries."""
    return ranking.by_best(found, self._group, k, self._kept)

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
      self._boxes = boxes(self._found)
    return [
      [self._boxes(self._entries[p]) if p >= 0 else None for p in row]
      for row in found.parts_of(ids).tolist()
    ]


def make(found, entries, only_whole):
  """Returns Regions of a collection.Collection, None for one without."""
  if read(found) is None:
    return None
  return Regions(found, entries, only_whole)
