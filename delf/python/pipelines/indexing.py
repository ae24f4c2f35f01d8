"""Building and changing the indexes of a collection."""

import dataclasses
import time

from absl import logging

from delf.python import errors, progress
from delf.python.pipelines import (
  collection_regions,
  extract_report,
  index_parts,
)
from delf.python.pipelines.collection import changing

# Images that are read before they are added.
_BATCH = 64
# Seconds from one save to the next, what a killed run loses at most; as the
# whole index is written, more where that takes long.
_SAVE_INTERVAL = 60
_SAVE_SHARE = 20


@dataclasses.dataclass(frozen=True)
class IndexReport:
  """What became of the images of a collection.

  Attributes:
    added: Names of images that were added to an index, or added anew.
    unchanged: Number of images that were there.
    total: Number of images in the collection now.
    entries: Number of entries of an index: where there are regions, that of
      regions, and so are `added` and `unchanged`.
    failed: extract_report.Failure of each feature file that could not be used.
    extraction: extract_report.ExtractReport, or None where nothing was
      extracted.
    bytes: Size of each index file by its name, in bytes.
  """

  added: tuple[str, ...]
  unchanged: int
  total: int
  entries: int
  failed: tuple[extract_report.Failure, ...]
  extraction: extract_report.ExtractReport | None
  bytes: dict[str, int]

  def summary(self):
    """Returns one line for people."""
    sizes = ", ".join(
      f"{name} {size / 2**20:.1f} MB" for name, size in self.bytes.items()
    )
    regions = f", {self.entries} regions" if self.entries != self.total else ""
    return (
      f"{self.total} images{regions} ({len(self.added)} added,"
      f" {self.unchanged} already there, {len(self.failed)} failed):"
      f" {sizes or 'nothing indexed'}"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.extraction is not None and self.extraction.exit_status:
      return self.extraction.exit_status
    return 1 if self.failed else 0


def add_features(collection, names, extraction=None, regions_of=()):
  """Adds images whose features are there to the indexes of a collection.

  Names are added in order. A run that was killed is repeated: it adds what is
  missing, and ends with the index of a run that was not.

  Args:
    collection: collection.Collection.
    names: Names of images: of feature files without extension.
    extraction: extract_report.ExtractReport of the photos, or None.
    regions_of: Names of images, of whose regions those that are not among the
      names are taken out.

  Returns:
    IndexReport.

  Raises:
    InputError: If an index file is not right.
    OSError: If an index cannot be written; the last good one stays.
  """
  names = sorted(names)
  added, failed = {}, {}
  parts = index_parts.parts(collection)
  gone = _Gone(set(regions_of), set(names))
  for part in parts:
    _fill(part, names, gone.among(part.index.names), added, failed)
  total = set().union(*(part.index.names for part in parts))
  return IndexReport(
    added=tuple(added),
    unchanged=len(set(names) - set(added) - {name for _, name in failed}),
    total=len(set(collection_regions.images_of(collection, total))),
    entries=len(total),
    failed=tuple(failed.values()),
    extraction=extraction,
    bytes={
      part.path.name: part.path.stat().st_size
      for part in parts
      if part.path.exists()
    },
  )


def remove(collection, names):
  """Removes images from the indexes; their features and photos stay.

  Args:
    collection: collection.Collection.
    names: Names of images.

  Raises:
    InputError: If there is no image of such a name.
  """
  with changing(collection.folder):
    _remove(collection, names)


def _remove(collection, names):
  parts = index_parts.parts(collection)
  known = {}
  entries = sorted(set().union(*(part.index.names for part in parts)))
  images = collection_regions.images_of(collection, entries)
  for image, entry in zip(images, entries, strict=True):
    known.setdefault(image, []).append(entry)
  for name in names:
    if name not in known:
      raise errors.InputError(
        "the name of an image in the index", repr(name), collection.folder
      )
  chosen = [entry for name in names for entry in known[name]]
  for part in parts:
    there = set(part.index.names)
    part.remove([entry for entry in chosen if entry in there])
    part.save()


class _Gone:
  """Tells regions of images that have been extracted anew, and are no more."""

  def __init__(self, images, there):
    self._images, self._there = images, there

  def among(self, entries):
    if not self._images:
      return []
    return [
      entry
      for entry in entries
      if entry not in self._there
      and collection_regions.image_of(entry) in self._images
    ]


def _fill(part, names, gone, added, failed):
  """Adds to one index what it lacks, saving now and then."""
  todo, changed = part.divide(names)
  if not todo and not gone and part.path.exists():
    return
  part.remove(gone)
  if changed:
    logging.info("%d images have new features.", len(changed))
    part.remove(changed)
  batch, due = {}, time.monotonic() + _SAVE_INTERVAL
  for name in progress.track(todo, f"adding to {part.path.name}"):
    try:
      batch[name] = part.read(name)
    except (errors.InputError, OSError) as error:
      failed[part.name, name] = _failure(part, name, error)
      continue
    if len(batch) >= _BATCH:
      _add(part, batch, added, failed)
      batch = {}
      begin = time.monotonic()
      if begin > due:
        part.save()
        end = time.monotonic()
        due = end + max(_SAVE_INTERVAL, _SAVE_SHARE * (end - begin))
  _add(part, batch, added, failed)
  part.save()


def _add(part, batch, added, failed):
  """Adds a batch; where one image is refused, the others go in."""
  if not batch:
    return
  try:
    part.add(list(batch), list(batch.values()))
    added |= dict.fromkeys(batch)
  except errors.InputError as error:
    if len(batch) == 1:
      (name,) = batch
      failed[part.name, name] = _failure(part, name, error)
      return
    for name, entry in batch.items():
      _add(part, {name: entry}, added, failed)


def _failure(part, name, error):
  path = str(part.source(name))
  reason = errors.one_line(error).removeprefix(f"{path}: ")
  return extract_report.Failure(path, reason)
