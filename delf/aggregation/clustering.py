"""Codebooks from feature files: gathered, clustered, written.

The state of a run is in a folder beside the codebook until that is written, so
that a run that was killed at any moment is resumed.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from delf.aggregation import kmeans, visual_words
from delf.base import arrays, errors, files, manifest, progress
from delf.extraction import engine
from delf.python import datum_io, feature_io

LOCAL, GLOBAL = "local", "global"
# Kind of descriptor -> extensions of the files that hold it.
EXTENSIONS = {
  LOCAL: (files.DELF, files.DELG_LOCAL),
  GLOBAL: (files.DELG_GLOBAL,),
}
# The folder of an unfinished run, after the name of the codebook, and in it.
_UNFINISHED = ".unfinished"
_SETTINGS, _STATE = "settings.json", "state.npz"
_ARRAY, _RECORD = "features.f32", "features.json"
# Seconds from one record of gathered features to the next.
_RECORD_INTERVAL = 5.0


def find(folder: files.Path, kind: str = LOCAL) -> list[str]:
  """Find the feature files of a kind in a local folder and its sub-folders."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  paths = sorted(
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
    if name.endswith(EXTENSIONS[kind]) and not name.startswith(".")
  )
  if not paths:
    raise errors.InputError(
      f"feature files ({', '.join(EXTENSIONS[kind])})", "none", folder
    )
  return paths


class Reader:
  """Reads files one by one; a bad one is recorded as a failure.

  Bad are those that are missing, cut, not finite, or of another dimension than
  the first. Without any descriptor yet the dimension is None.
  """

  def __init__(self, dimension: int | None = None):
    self.dimension = dimension
    self.failures: list[engine.Failure] = []

  def read(self, path: str) -> np.ndarray:
    """Return the descriptors of a file, [N, D] float32; of a bad one none."""
    try:
      descriptors = _read_descriptors(path)
      if len(descriptors):
        size = descriptors.shape[1]
        if size == 0 or self.dimension not in (None, size):
          raise errors.InputError(
            f"descriptors of {self.dimension or 'some'} values, as in the"
            " files before",
            f"{size}",
            path,
          )
        descriptors = arrays.check_descriptors(descriptors)
        self.dimension = size
        return descriptors
    except (errors.InputError, OSError) as error:
      self.failures.append(engine.Failure.of(path, error))
    return np.zeros([0, self.dimension or 0], dtype=np.float32)


def _read_descriptors(path):
  """Return [N, D] of a file of local features or a global descriptor."""
  if not path.endswith(EXTENSIONS[GLOBAL]):
    return feature_io.read_local_features(path).descriptors
  descriptor = datum_io.ReadFromFile(path)
  if descriptor.ndim != 1:
    raise errors.InputError(
      "a descriptor [D]", f"shape {list(descriptor.shape)}", path
    )
  return descriptor[np.newaxis] if descriptor.size else np.zeros([0, 0])


@dataclasses.dataclass
class _Record:
  """Contents of the array of features, kept in a file beside it."""

  files: int = 0
  seen: int = 0
  kept: int = 0
  dimension: int | None = None
  failures: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pool:
  """Descriptors of many files."""

  features: np.ndarray  # [N, D] float32, a read-only memory map; or [0, 0].
  seen: int  # Number of descriptors that N were chosen from.
  failures: tuple[engine.Failure, ...]  # Feature files that were skipped.


def gather(
  paths: Sequence[str],
  folder: files.Path,
  limit: int | None = None,
  seed: int = 0,
) -> Pool:
  """Put the descriptors of files into one array, in the order of the files.

  The array is in a local folder, 4 D bytes a descriptor; a run is resumed with
  the same paths. Of more descriptors than the limit each has the same chance to
  be in (Vitter, "Random Sampling with a Reservoir", 1985, algorithm R).
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  record = _read_record(folder)
  if record.files < len(paths):
    with open(folder / _ARRAY, "r+b" if record.files else "w+b") as file:
      _gather_into(file, paths, folder / _RECORD, record, limit, seed)
  features = np.zeros([0, 0], dtype=np.float32)
  if record.kept:
    shape = (record.kept, record.dimension)
    features = np.memmap(folder / _ARRAY, np.float32, "r", shape=shape)
  failures = tuple(engine.Failure(*each) for each in record.failures)
  return Pool(features, record.seen, failures)


def _gather_into(file: BinaryIO, paths, record_path, record, limit, seed):
  """Read the files that are not in the array yet; `record` is updated."""
  # What a killed run wrote after its last record comes again, equal.
  file.truncate(4 * record.kept * (record.dimension or 0))
  reader, last = Reader(record.dimension), time.monotonic()
  reader.failures += [engine.Failure(*each) for each in record.failures]
  for i in progress.track(range(record.files, len(paths)), "reading features"):
    descriptors = reader.read(paths[i])
    record.dimension = reader.dimension
    room = len(descriptors)
    if limit is not None:
      room = min(room, limit - record.kept)
    if room:
      file.seek(4 * record.kept * record.dimension)
      file.write(np.ascontiguousarray(descriptors[:room], dtype="<f4").data)
      record.kept += room
    if room < len(descriptors):
      generator = np.random.default_rng([seed, i])
      first = record.seen + room
      _replace(file, descriptors[room:], first, limit, generator)
    record.seen += len(descriptors)
    record.files = i + 1
    at_end = record.files == len(paths)
    if at_end or time.monotonic() - last > _RECORD_INTERVAL:
      # The record must not be on disk before the descriptors.
      file.flush()
      os.fsync(file.fileno())
      record.failures = [dataclasses.astuple(each) for each in reader.failures]
      files.write_bytes(
        record_path, json.dumps(dataclasses.asdict(record)).encode()
      )
      last = time.monotonic()


def _replace(file, descriptors, first, limit, generator):
  """Put descriptors, from the `first` of all on, in place of random ones."""
  numbers = np.arange(first, first + len(descriptors))
  targets = generator.integers(0, numbers + 1)
  # Of several for one target the last stays.
  targets, order = np.unique(targets[::-1], return_index=True)
  inside = targets < limit
  chosen = len(descriptors) - 1 - order[inside]
  file.flush()
  shape = (limit, descriptors.shape[1])
  array = np.memmap(file, np.float32, "r+", shape=shape)
  array[targets[inside]] = descriptors[chosen]


def _read_record(folder):
  """Return the record of the run before, if any; the array is long enough."""
  path, array = folder / _RECORD, folder / _ARRAY
  if not path.exists():
    return _Record()
  try:
    record = _Record(**json.loads(files.read_bytes(path)))
    needed = 4 * record.kept * (record.dimension or 0)
  except (ValueError, TypeError, RecursionError):
    raise errors.InputError(
      "the record of gathered features (without its folder it begins anew)",
      "a damaged one",
      path,
    ) from None
  size = array.stat().st_size if array.exists() else 0
  if size < needed:
    raise errors.InputError(
      f"at least {needed} bytes (without its folder it begins anew)",
      f"{size}",
      array,
    )
  return record


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
  """Options of clustering."""

  num_clusters: int = 1024
  num_iterations: int = 50  # Fewer where no word moves any more.
  # Of more, each feature has the same chance to be in. None for all.
  max_features: int | None = None
  seed: int = 0  # Of the features and first words that are chosen.
  method: str = kmeans.AUTOMATIC  # One of kmeans.METHODS.
  save_interval: float = 2.0  # Least seconds from one saved state to the next.

  def __post_init__(self):
    names = "num_clusters", "num_iterations", "max_features", "seed"
    for name, least in zip(names, (1, 1, 1, 0), strict=True):
      value = getattr(self, name)
      if value is not None and value < least:
        raise errors.InputError(f"{name} of at least {least}", value)


@dataclasses.dataclass(frozen=True)
class ClusterReport:
  """Result of a clustering; `objectives` and `moved` as in kmeans.State."""

  codebook: str
  num_clusters: int
  dimension: int
  features: int
  features_seen: int
  method: str
  objectives: tuple[float, ...]
  moved: tuple[int, ...]
  failed: tuple[engine.Failure, ...] = ()
  seconds: float = 0.0

  def summary(self) -> str:
    """Return one line for people."""
    chosen = f" of {self.features_seen}"
    some = chosen if self.features < self.features_seen else ""
    return (
      f"{self.num_clusters} words of {self.dimension} values from "
      f"{self.features}{some} features, {len(self.objectives)} iterations "
      f"({self.method}), mean squared distance {self.objectives[-1]:.6g}, "
      f"{sum(self.moved)} empty words moved, {len(self.failed)} files failed, "
      f"{self.seconds:.1f} s"
    )


def cluster_files(
  paths: Iterable[files.Path], codebook: files.Path, **options: Any
) -> ClusterReport:
  """Train a codebook on the features of files.

  A run that ended at any moment is resumed when it is repeated, and gets the
  codebook that it would have got, bit for bit on the same machine.

  Files are of one dimension, and options those of ClusterOptions. The codebook
  is the prefix of a TensorFlow checkpoint, which will hold [K, D] float32 under
  `codebook`. Beside it `<prefix>.json` has the report.
  """
  options = ClusterOptions(**options)
  begin = time.perf_counter()
  paths = list(map(os.fspath, paths))
  folder = pathlib.Path(f"{codebook}{_UNFINISHED}")
  refuse_finished(codebook)
  _claim(folder, paths, options)
  pool = gather(paths, folder, options.max_features, options.seed)
  if len(pool.features) < options.num_clusters:
    shutil.rmtree(folder, ignore_errors=True)
    received = f"{len(pool.features)}"
    if pool.failures:
      number, first = len(pool.failures), pool.failures[0]
      received += f"; first of {number} bad files: {first}"
    raise errors.InputError(
      f"at least as many features as words, {options.num_clusters}", received
    )
  method = kmeans.choose_method(
    options.method, len(pool.features), options.num_clusters
  )
  state = _iterate(pool.features, folder / _STATE, options, method)
  report = ClusterReport(
    codebook=os.fspath(codebook),
    num_clusters=options.num_clusters,
    dimension=pool.features.shape[1],
    features=len(pool.features),
    features_seen=pool.seen,
    method=method,
    objectives=state.objectives,
    moved=state.moved,
    failed=pool.failures,
    seconds=time.perf_counter() - begin,
  )
  text = json.dumps(dataclasses.asdict(report), indent=2)
  files.write_bytes(f"{codebook}.json", text.encode())
  visual_words.write_codebook(codebook, state.centers)
  shutil.rmtree(folder, ignore_errors=True)
  return report


def refuse_finished(codebook: files.Path) -> None:
  """Raise InputError if a codebook exists; remove an unfinished run of it."""
  if os.path.exists(f"{codebook}.index"):
    shutil.rmtree(f"{codebook}{_UNFINISHED}", ignore_errors=True)
    raise errors.InputError(
      "a place without a codebook", "a finished one", codebook
    )


def _claim(folder, paths, options):
  """Record the settings of a run, or compare them with the run before."""
  names = hashlib.sha256()
  for path in paths:
    stamp = "missing"
    if os.path.exists(path):
      stat = os.stat(path)
      stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    names.update(f"{os.path.basename(path)}\0{stamp}\0".encode())
  wanted = {
    "feature files": names.hexdigest(),
    "num_clusters": options.num_clusters,
    "max_features": options.max_features,
    "seed": options.seed,
    "method": options.method,
  }
  existing = manifest.read(folder / _SETTINGS)
  if existing is None:
    manifest.write(folder / _SETTINGS, wanted)
  elif difference := manifest.difference(existing, wanted):
    raise errors.InputError(
      "an unfinished run of the same settings (without this folder it begins"
      " anew)",
      f"one {difference}",
      folder,
    )


def _iterate(features, path, options, method):
  """Return the last state; those between are saved."""
  state = kmeans.State.read(path)
  if state is None:
    state = kmeans.start(features, options.num_clusters, options.seed)
  else:
    logging.info("Resumed after iteration %d.", state.iteration)
  last, saved = time.monotonic(), state
  steps = range(state.iteration, options.num_iterations)
  bar = progress.track(steps, "clustering")
  for _ in bar:
    if state.converged:
      break
    state = kmeans.step(features, state, method)
    bar.set_postfix_str(f"mean squared distance {state.objectives[-1]:.6g}")
    if time.monotonic() - last >= options.save_interval:
      state.write(path)
      last, saved = time.monotonic(), state
  if saved is not state:
    state.write(path)
  return state
