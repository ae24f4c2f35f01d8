"""Training of codebooks on feature files: gather, cluster, write.

Until the codebook is written, the state of a run is in a folder beside it, so
that a run can be resumed even if it was killed.
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
# File extensions of each kind of descriptor.
EXTENSIONS = {
  LOCAL: (files.DELF, files.DELG_LOCAL),
  GLOBAL: (files.DELG_GLOBAL,),
}
_UNFINISHED = ".unfinished"  # Suffix of the folder of an unfinished run.
_SETTINGS, _STATE = "settings.json", "state.npz"
_ARRAY, _RECORD = "features.f32", "features.json"
_RECORD_INTERVAL = 5.0  # Seconds between records of gathered features.


def find(folder: files.Path, kind: str = LOCAL) -> list[str]:
  """List the feature files of a kind in a local folder and its subfolders."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: no such folder")
  paths = sorted(
    os.path.join(parent, name)
    for parent, _, names in os.walk(os.fspath(folder))
    for name in names
    if name.endswith(EXTENSIONS[kind]) and not name.startswith(".")
  )
  if not paths:
    message = f"no feature files ({', '.join(EXTENSIONS[kind])}) in the folder"
    raise errors.InputError(message, path=folder)
  return paths


class Reader:
  """Reads feature files one by one, and records bad ones as failures.

  A file is bad if it is missing, truncated, not finite, or of another dimension
  than the first. The dimension is None until the first descriptor.
  """

  def __init__(self, dimension: int | None = None) -> None:
    self.dimension = dimension
    self.failures: list[engine.Failure] = []

  def read(self, path: str) -> np.ndarray:
    """Return the descriptors of a file, [N, D] float32; none if it is bad."""
    try:
      descriptors = _read_descriptors(path)
      if len(descriptors):
        size = descriptors.shape[1]
        if size == 0 or self.dimension not in (None, size):
          needed = f"{self.dimension or 'some'} values like earlier files"
          message = f"descriptors must have {needed}, not {size} values"
          raise errors.InputError(message, path=path)
        descriptors = arrays.check_descriptors(descriptors)
        self.dimension = size
        return descriptors
    except (errors.InputError, OSError) as error:
      self.failures.append(engine.Failure.of(path, error))
    return np.zeros([0, self.dimension or 0], dtype=np.float32)


def _read_descriptors(path):
  """Return [N, D] local descriptors, or [1, D] for a global descriptor."""
  if not path.endswith(EXTENSIONS[GLOBAL]):
    return feature_io.read_local_features(path).descriptors
  descriptor = datum_io.ReadFromFile(path)
  if descriptor.ndim != 1:
    message = f"a descriptor must have shape [D], not {list(descriptor.shape)}"
    raise errors.InputError(message, path=path)
  return descriptor[np.newaxis] if descriptor.size else np.zeros([0, 0])


@dataclasses.dataclass
class _Record:
  """Contents of the array of gathered features, as recorded in a file."""

  files: int = 0
  seen: int = 0
  kept: int = 0
  dimension: int | None = None
  failures: list = dataclasses.field(default_factory=list)

  def size(self):
    return 4 * self.kept * (self.dimension or 0)  # Bytes of the array.


@dataclasses.dataclass(frozen=True)
class Pool:
  """Descriptors of many files."""

  features: np.ndarray  # [N, D] float32, a read-only memory map; or [0, 0].
  seen: int  # Number of descriptors that the N were sampled from.
  failures: tuple[engine.Failure, ...]  # Feature files that were skipped.


def gather(
  paths: Sequence[str],
  folder: files.Path,
  limit: int | None = None,
  seed: int = 0,
) -> Pool:
  """Gather the descriptors of files in one array, in the order of the files.

  The array takes 4 D bytes per descriptor in a local folder. A call with the
  same paths resumes an interrupted one. If there are more descriptors than the
  limit, a uniform sample is taken (Vitter, "Random Sampling with a Reservoir",
  1985, algorithm R).
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
  # Descriptors after the last record of a killed run are gathered again.
  file.truncate(record.size())
  reader, last = Reader(record.dimension), time.monotonic()
  reader.failures += [engine.Failure(*each) for each in record.failures]
  for i in progress.track(range(record.files, len(paths)), "reading features"):
    descriptors = reader.read(paths[i])
    record.dimension = reader.dimension
    room = len(descriptors)
    if limit is not None:
      room = min(room, limit - record.kept)
    if room:
      file.seek(record.size())
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
      # The descriptors must be on disk before the record.
      file.flush()
      os.fsync(file.fileno())
      record.failures = [dataclasses.astuple(each) for each in reader.failures]
      text = json.dumps(dataclasses.asdict(record))
      files.write_bytes(record_path, text.encode())
      last = time.monotonic()


def _replace(file, descriptors, first, limit, generator):
  """Let descriptors, numbered from `first`, replace random ones."""
  numbers = np.arange(first, first + len(descriptors))
  targets = generator.integers(0, numbers + 1)
  # The last descriptor for a target stays.
  targets, order = np.unique(targets[::-1], return_index=True)
  inside = targets < limit
  chosen = len(descriptors) - 1 - order[inside]
  file.flush()
  shape = (limit, descriptors.shape[1])
  array = np.memmap(file, np.float32, "r+", shape=shape)
  array[targets[inside]] = descriptors[chosen]


def _read_record(folder):
  """Return the record of the previous run, checked against the array."""
  path, array = folder / _RECORD, folder / _ARRAY
  if not path.exists():
    return _Record()
  try:
    record = _Record(**json.loads(files.read_bytes(path)))
    needed = record.size()
  except (ValueError, TypeError, RecursionError):
    message = "damaged record of features; delete its folder to restart"
    raise errors.InputError(message, path=path) from None
  size = array.stat().st_size if array.exists() else 0
  if size < needed:
    message = f"only {size} of {needed} bytes; delete its folder to restart"
    raise errors.InputError(message, path=array)
  return record


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
  """Options of clustering."""

  num_clusters: int = 1024
  num_iterations: int = 50  # Maximum; it stops early if no word moves.
  max_features: int | None = None  # Size of a random sample; None for all.
  seed: int = 0  # Seed of the sample of features and the initial words.
  method: str = kmeans.AUTOMATIC  # One of kmeans.METHODS.
  save_interval: float = 2.0  # Least seconds between two saved states.

  def __post_init__(self) -> None:
    names = "num_clusters", "num_iterations", "max_features", "seed"
    for name, least in zip(names, (1, 1, 1, 0), strict=True):
      value = getattr(self, name)
      if value is not None and value < least:
        raise errors.InputError(f"{name} must be at least {least}, not {value}")


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
  """Train a codebook on feature files of one dimension.

  Repeating an interrupted run resumes it; the codebook is then the same as
  without interruption, bit for bit on the same machine.

  Options are fields of ClusterOptions. `codebook` is the prefix of a TensorFlow
  checkpoint to write, with [K, D] float32 under the name `codebook`;
  `<prefix>.json` gets the report.
  """
  settings, begin = ClusterOptions(**options), time.perf_counter()
  sources = [os.fspath(path) for path in paths]
  folder = pathlib.Path(f"{codebook}{_UNFINISHED}")
  refuse_finished(codebook)
  _claim(folder, sources, settings)
  pool = gather(sources, folder, settings.max_features, settings.seed)
  number, words = len(pool.features), settings.num_clusters
  if number < words:
    shutil.rmtree(folder, ignore_errors=True)
    message = f"{number} features are too few for {words} words"
    if bad := len(pool.failures):
      message += f"; first of {bad} bad files: {pool.failures[0]}"
    raise errors.InputError(message)
  method = kmeans.choose_method(settings.method, number, words)
  state = _iterate(pool.features, folder / _STATE, settings, method)
  report = ClusterReport(
    codebook=os.fspath(codebook),
    num_clusters=words,
    dimension=pool.features.shape[1],
    features=number,
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
    raise errors.InputError("the codebook is finished already", path=codebook)


def _claim(folder, paths, options):
  names = hashlib.sha256()
  for path in paths:
    stamp = "missing"
    if os.path.exists(path):
      stat = os.stat(path)
      stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    names.update(f"{os.path.basename(path)}\0{stamp}\0".encode())
  requested = {"feature files": names.hexdigest()}
  for name in ("num_clusters", "max_features", "seed", "method"):
    requested[name] = getattr(options, name)
  existing = manifest.read(folder / _SETTINGS)
  if existing is None:
    manifest.write(folder / _SETTINGS, requested)
  elif difference := manifest.difference(existing, requested):
    message = f"this is an unfinished run {difference}; delete it to restart"
    raise errors.InputError(message, path=folder)


def _iterate(features, path, options, method):
  """Return the last state; save states in between."""
  state = kmeans.State.read(path)
  if state is None:
    state = kmeans.start(features, options.num_clusters, options.seed)
  else:
    logging.info("Resumed after iteration %d.", state.iteration)
  last, saved = time.monotonic(), state
  steps = range(state.iteration, options.num_iterations)
  for _ in (bar := progress.track(steps, "clustering")):
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
