"""Descriptors of many files in one memory-mapped array, sampled if too many.

What is in memory is one file's descriptors. A run that was killed goes on after
the files that are known to be in, and gets the same array.
"""

import dataclasses
import json
import os
import pathlib
import time

import numpy as np

from delf.python import errors, files, progress
from delf.python.pipelines import extract_report, feature_files

_ARRAY = "features.f32"
_RECORD = "features.json"

# Seconds from one record of what is in to the next.
_RECORD_INTERVAL = 5.0


@dataclasses.dataclass
class _Progress:
  """What is in the array: kept in a file beside it."""

  files: int = 0
  seen: int = 0
  kept: int = 0
  dimension: int | None = None
  failures: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pool:
  """Descriptors of many files.

  Attributes:
    features: [N, D] float32, a read-only memory map; or [0, 0].
    seen: Number of descriptors that N were chosen from.
    failures: extract_report.Failure of each file that was left out.
  """

  features: np.ndarray
  seen: int
  failures: tuple[extract_report.Failure, ...]


def gather(paths, folder, limit=None, seed=0):
  """Puts the descriptors of files into one array, in the order of the files.

  Args:
    paths: Paths of feature files; the same ones when a run is repeated.
    folder: Local folder for the array, 4 D bytes a descriptor.
    limit: Most descriptors; of more, each has the same chance to be in (Vitter,
      "Random Sampling with a Reservoir", 1985, algorithm R). None for all.
    seed: int, decides which are in.

  Returns:
    Pool.

  Raises:
    InputError: If what a run before has left is damaged.
    OSError: If the array cannot be written.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  done = _read_record(folder)
  if done.files < len(paths):
    _read_files(paths, folder, done, (limit, seed))
  features = np.zeros([0, 0], dtype=np.float32)
  if done.kept:
    shape = (done.kept, done.dimension)
    features = np.memmap(folder / _ARRAY, np.float32, "r", shape=shape)
  failures = tuple(extract_report.Failure(*each) for each in done.failures)
  return Pool(features, done.seen, failures)


def _read_files(paths, folder, done, sampling):
  """Reads what is not in yet; `done` says so at the end, as does its file."""
  reader = feature_files.Reader(done.dimension)
  last = time.monotonic()
  with open(folder / _ARRAY, "r+b" if done.files else "w+b") as file:
    # What a killed run wrote after its last record comes again, equal.
    file.truncate(4 * done.kept * (done.dimension or 0))
    array = _Array(file, done, *sampling)
    bar = progress.track(range(done.files, len(paths)), "reading features")
    for position in bar:
      array.add(reader.read(paths[position]), position)
      done.files = position + 1
      if time.monotonic() - last > _RECORD_INTERVAL:
        _write_record(folder / _RECORD, done, reader, file)
        last = time.monotonic()
    _write_record(folder / _RECORD, done, reader, file)


class _Array:
  """The array while it grows, and when it is full while it is sampled."""

  def __init__(self, file, done, limit, seed):
    self._file, self._done = file, done
    self._limit, self._seed = limit, seed

  def add(self, descriptors, position):
    """Adds the descriptors of the file at a position of the list."""
    done, first = self._done, 0
    if len(descriptors):
      done.dimension = descriptors.shape[1]
    if self._limit is None or done.kept < self._limit:
      first = len(descriptors)
      if self._limit is not None:
        first = min(first, self._limit - done.kept)
      self._write(done.kept, descriptors[:first])
      done.kept += first
    if first < len(descriptors):
      self._replace(descriptors[first:], done.seen + first, position)
    done.seen += len(descriptors)

  def _replace(self, descriptors, number, position):
    """Puts descriptors, `number` in the whole and on, in place of others."""
    generator = np.random.default_rng([self._seed, position])
    numbers = np.arange(number, number + len(descriptors))
    places = generator.integers(0, numbers + 1)
    # Of several for one place the last stays.
    places, order = np.unique(places[::-1], return_index=True)
    inside = places < self._limit
    chosen = len(descriptors) - 1 - order[inside]
    self._file.flush()
    shape = (self._limit, self._done.dimension)
    array = np.memmap(self._file, np.float32, "r+", shape=shape)
    array[places[inside]] = descriptors[chosen]

  def _write(self, place, rows):
    self._file.seek(4 * place * (self._done.dimension or 0))
    self._file.write(np.ascontiguousarray(rows, dtype="<f4").data)


def _read_record(folder):
  """Returns what a run before has put in, if anything; the array has it."""
  path, array = folder / _RECORD, folder / _ARRAY
  if not path.exists():
    return _Progress()
  try:
    done = _Progress(**json.loads(files.read_bytes(path)))
    needed = 4 * done.kept * (done.dimension or 0)
  except (ValueError, TypeError, RecursionError):
    raise errors.InputError(
      "the record of what was read (without its folder it begins anew)",
      "a damaged one",
      path,
    ) from None
  found = array.stat().st_size if array.exists() else 0
  if found < needed:
    raise errors.InputError(
      f"at least {needed} bytes (without its folder it begins anew)",
      f"{found}",
      array,
    )
  return done


def _write_record(path, done, reader, file):
  """Records what is in, once it is on the disk."""
  file.flush()
  os.fsync(file.fileno())
  done.failures += [[each.path, each.reason] for each in reader.failures]
  reader.failures.clear()
  files.write_bytes(path, json.dumps(dataclasses.asdict(done)).encode())
