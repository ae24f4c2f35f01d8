"""Geometric verification of many pairs of images, resumable, on all cores."""

import contextlib
import dataclasses
import os
import time

import numpy as np

from delf.python import errors, progress
from delf.python.pipelines import (
  extract_report,
  verified_record,
  verify_workers,
)

# Bytes that features may take in all processes together.
CACHE_BYTES = 2**30

# Prepared features take about this many times the bytes of their file.
_PREPARED = 2.2
# Pairs that are recorded at once: what an end at any moment loses, per process.
_CHUNK = 8
# Pairs per process that are worth starting it: about a second of work each.
_WORTH_A_PROCESS = 60


@dataclasses.dataclass(frozen=True)
class VerifyReport:
  """What came of verifying pairs.

  Attributes:
    pairs: [P, 2] int64, (query, index image), sorted, each once.
    inliers: [P] int32; 0 for pairs that failed.
    failed: extract_report.Failure of each feature file that could not be used.
    resumed: Number of pairs that were known from before.
    seconds: Wall-clock time.
  """

  pairs: np.ndarray
  inliers: np.ndarray
  failed: tuple[extract_report.Failure, ...]
  resumed: int
  seconds: float

  def look_up(self, queries, images):
    """Returns the inliers of pairs that were verified.

    Args:
      queries: [M] int.
      images: [M] int, index images.

    Returns:
      [M] int32.

    Raises:
      KeyError: If one of them was not verified.
    """
    wanted = np.stack([queries, images], axis=1).astype(np.int64)
    if not len(wanted):
      return np.zeros([0], np.int32)
    width = max(self.pairs.max(initial=0), wanted.max()) + 1
    known = self.pairs @ [width, 1]
    wanted = wanted @ [width, 1]
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    if not len(known) or (known[places] != wanted).any():
      raise KeyError("a pair that was not verified")
    return self.inliers[places]

  def summary(self):
    """Returns one line for people."""
    new = len(self.pairs) - self.resumed
    speed = f" ({new / self.seconds:.0f} pairs/s)" if new else ""
    return (
      f"{new} pairs verified, {self.resumed} known already,"
      f" {len(self.failed)} feature files failed in {self.seconds:.1f} s{speed}"
    )


def verify_pairs(
  pairs, queries, index, options, folder=None, workers=None, cache_bytes=None
):
  """Verifies pairs of images by their files of local features.

  A run that was ended at any moment can be repeated: pairs are recorded in the
  folder, by settings and by the sizes and times of both files. What comes of a
  pair depends on nothing else. A file that cannot be used is reported, and its
  pairs have 0 inliers and are not recorded.

  Args:
    pairs: [P, 2] int, (query, index image). One that is repeated is done once.
    queries: side_cache.FeatureFiles of the queries.
    index: side_cache.FeatureFiles of the index images.
    options: verification.VerifyOptions.
    folder: Local folder for the record, or None to keep none.
    workers: Number of processes, or None: all cores, for as many pairs as are
      worth it.
    cache_bytes: Bytes that features may take in all processes together, or None
      for CACHE_BYTES.

  Returns:
    VerifyReport.

  Raises:
    InputError: If an option is wrong.
    OSError: If the record cannot be written, or a process was ended.
  """
  start = time.perf_counter()
  pairs = np.unique(np.asarray(pairs, np.int64).reshape([-1, 2]), axis=0)
  work = _Work(pairs, queries, index, options)
  if folder is not None:
    work.resume(verified_record.VerifiedRecord(folder, options))
  resumed = int(work.done.sum())
  workers = _number_of_workers(workers, len(pairs) - resumed)
  most_bytes = CACHE_BYTES if cache_bytes is None else cache_bytes
  work.run(workers, max(1, most_bytes // workers))
  return VerifyReport(
    pairs=pairs,
    inliers=work.inliers,
    failed=work.failures(),
    resumed=resumed,
    seconds=time.perf_counter() - start,
  )


class _Work:
  """Pairs, and what is known of them so far."""

  def __init__(self, pairs, queries, index, options):
    self._pairs = pairs
    self._sides = queries, index
    self._options = options
    self.inliers = np.zeros([len(pairs)], np.int32)
    self.done = np.zeros([len(pairs)], bool)
    self._record = None
    self._failed = {}
    self._files = [
      {
        number: verified_record.identify(side.names[number], side.paths[number])
        for number in np.unique(column).tolist()
      }
      for side, column in zip(self._sides, pairs.T, strict=True)
    ]

  def resume(self, record):
    """Takes over what is recorded; what is done from now on is recorded."""
    self._record = record
    known = [record.find(*pair) for pair in self._identified(self._pairs)]
    self.done[:] = [number is not None for number in known]
    self.inliers[:] = [number or 0 for number in known]

  def run(self, workers, most_bytes):
    """Verifies what is not done yet."""
    todo = np.flatnonzero(~self.done)
    if not len(todo):
      return
    block = self._queries_at_once(most_bytes)
    query, image = self._pairs[todo].T
    # Image by image, so that each file of the index is read once, for as many
    # queries as fit in memory.
    todo = todo[np.lexsort((query, image, query // block))]
    starts = range(0, len(todo), _CHUNK)
    chunks = [self._pairs[todo[start : start + _CHUNK]] for start in starts]
    arguments = (*(s.paths for s in self._sides), self._options, most_bytes)
    results = verify_workers.run(chunks, workers, arguments)
    with contextlib.closing(results), contextlib.closing(self):
      steps = (each for result in results for each in self._add(*result))
      for _ in progress.track(steps, "verifying", total=len(todo)):
        pass

  def _add(self, chunk, found):
    """Takes over what came of a chunk; returns it."""
    good = np.array([isinstance(each, int) for each in found])
    for pair, each in zip(chunk.tolist(), found, strict=True):
      if not isinstance(each, int):
        reason, side = each
        self._failed.setdefault((side, pair[side]), reason)
    numbers = [each for each in found if isinstance(each, int)]
    places = np.searchsorted(
      self._pairs @ self._weights, chunk[good] @ self._weights
    )
    self.inliers[places] = numbers
    if self._record is not None:
      self._record.add(self._identified(chunk[good]), numbers)
    return found

  @property
  def _weights(self):
    return np.array([self._pairs[:, 1].max() + 1, 1])

  def close(self):
    """Ends the recording."""
    if self._record is not None:
      self._record.close()

  def failures(self):
    """Returns the Failure of each file, queries first."""
    return tuple(
      extract_report.Failure(str(self._sides[side].paths[number]), reason)
      for (side, number), reason in sorted(self._failed.items())
    )

  def _identified(self, pairs):
    queries, images = self._files
    return [(queries[query], images[image]) for query, image in pairs.tolist()]

  def _queries_at_once(self, most_bytes):
    """Returns how many queries' features fit in memory beside the others."""
    sizes = [found[1] for found in self._files[0].values() if found]
    largest = _PREPARED * max(sizes, default=1)
    return max(1, int(most_bytes / 2 / largest))


def _number_of_workers(workers, pairs):
  if workers is None:
    return max(1, min(_cores(), pairs // _WORTH_A_PROCESS))
  if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
    raise errors.InputError("a number of processes over 0", repr(workers))
  return workers


def _cores():
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
