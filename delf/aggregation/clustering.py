"""Codebooks from feature files: gathered, clustered, written.

All that a run has done stands in a folder beside the codebook until that is
written, so that a run that was killed at any moment goes on where it was.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import time
import zipfile

import numpy as np
from absl import logging

from delf.aggregation import kmeans, visual_words
from delf.base import errors, files, progress
from delf.extraction import engine
from delf.python import datum_io, feature_io


def write(path, state):
  """Writes a clustering.State, whole or not at all."""
  arrays = {
    "centers": state.centers,
    "objectives": np.array(state.objectives, dtype=np.float64),
    "moved": np.array(state.moved, dtype=np.int64),
    "converged": np.array(state.converged),
  }
  if state.labels is not None:
    arrays["labels"] = state.labels
  with files.atomic_path(path) as temporary:
    np.savez(temporary, **arrays)


def read(path):
  """Reads a clustering.State.

  Args:
    path: pathlib.Path of the file.

  Returns:
    clustering.State, or None if there is no file.

  Raises:
    InputError: If it is damaged.
  """
  if not path.exists():
    return None
  try:
    with np.load(io.BytesIO(files.read_bytes(path))) as found:
      found = dict(found)
    return kmeans.State(
      centers=found["centers"],
      labels=found.get("labels"),
      objectives=tuple(found["objectives"].tolist()),
      moved=tuple(found["moved"].tolist()),
      converged=bool(found["converged"]),
    )
  except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
    raise errors.InputError(
      "the state of a clustering (without the file it begins anew)",
      "a damaged one",
      path,
    ) from None


LOCAL = "local"
GLOBAL = "global"

# Kind of descriptor -> extensions of the files that hold it.
EXTENSIONS = {
  LOCAL: (files.DELF, files.DELG_LOCAL),
  GLOBAL: (files.DELG_GLOBAL,),
}


def find(folder, kind=LOCAL):
  """Finds the feature files in a folder and the folders in it.

  Args:
    folder: Local path.
    kind: LOCAL or GLOBAL.

  Returns:
    Sorted list of str paths.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there is no such file in it.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  found = sorted(
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
    if name.endswith(EXTENSIONS[kind]) and not name.startswith(".")
  )
  if not found:
    raise errors.InputError(
      f"feature files ({', '.join(EXTENSIONS[kind])})", "none", folder
    )
  return found


class Reader:
  """Reads files one by one; one that is bad is a failure, and the rest go on.

  Attributes:
    dimension: Values of a descriptor, or None until a file had one.
    failures: list of extract_report.Failure, of files that are missing, cut,
      not finite, or of another dimension than the first.
  """

  def __init__(self, dimension=None, failures=()):
    self.dimension = dimension
    self.failures = list(failures)

  def read(self, path):
    """Returns the descriptors of a file, [N, D] float32; of a bad one none."""
    try:
      descriptors = self._check(_descriptors(path), path)
    except (errors.InputError, OSError) as error:
      reason = errors.one_line(error).removeprefix(f"{path}: ")
      self.failures.append(engine.Failure(path, reason))
      return np.zeros([0, self.dimension or 0], dtype=np.float32)
    return descriptors

  def _check(self, descriptors, path):
    if not len(descriptors):
      return np.zeros([0, self.dimension or 0], dtype=np.float32)
    size = descriptors.shape[1]
    if size == 0 or self.dimension not in (None, size):
      raise errors.InputError(
        f"descriptors of {self.dimension or 'some'} values, as in the files "
        "before",
        f"{size}",
        path,
      )
    descriptors = visual_words.check_descriptors(descriptors, "descriptors")
    self.dimension = size
    return descriptors


def _descriptors(path):
  """Returns the descriptors of a file of local features or a global one."""
  if not path.endswith(EXTENSIONS[GLOBAL]):
    return feature_io.read_local_features(path).descriptors
  descriptor = datum_io.ReadFromFile(path)
  if descriptor.ndim != 1:
    raise errors.InputError(
      "a descriptor [D]", f"shape {list(descriptor.shape)}", path
    )
  descriptors = descriptor[np.newaxis].astype(np.float32)
  return descriptors if descriptor.size else descriptors.reshape([0, 0])


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
  failures: tuple[engine.Failure, ...]


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
  failures = tuple(engine.Failure(*each) for each in done.failures)
  return Pool(features, done.seen, failures)


def _read_files(paths, folder, done, sampling):
  """Reads what is not in yet; `done` says so at the end, as does its file."""
  reader = Reader(done.dimension)
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


# The folder of an unfinished run, after the name of the codebook.
_UNFINISHED = ".unfinished"
_SETTINGS = "settings.json"
_STATE = "state.npz"


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
  """How to cluster.

  Attributes:
    num_clusters: Number of words.
    num_iterations: Most steps of k-means; fewer where no word moves any more.
    max_features: Most features; of more, each has the same chance to be in.
      None for all.
    seed: int, 0 or over: the features and first words that are chosen.
    method: One of clustering.METHODS.
    save_interval: Least seconds from one saved state to the next.
  """

  num_clusters: int = 1024
  num_iterations: int = 50
  max_features: int | None = None
  seed: int = 0
  method: str = kmeans.AUTOMATIC
  save_interval: float = 2.0

  def __post_init__(self):
    for name, least in (
      ("num_clusters", 1),
      ("num_iterations", 1),
      ("max_features", 1),
      ("seed", 0),
    ):
      value = getattr(self, name)
      if value is not None and value < least:
        raise errors.InputError(f"{name} of at least {least}", value)


@dataclasses.dataclass(frozen=True)
class ClusterReport:
  """What became of a clustering.

  Attributes:
    codebook: Prefix of the checkpoint.
    num_clusters: Number of words.
    dimension: Values of each.
    features: Number of features that were clustered.
    features_seen: Number that they were chosen from.
    method: clustering.EXACT or clustering.APPROXIMATE.
    objectives: Mean squared distance in each step.
    moved: Words in each step that had no features and were put elsewhere.
    failed: Failure of each feature file that was left out.
    seconds: Wall-clock time of this run.
  """

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

  def summary(self):
    """Returns one line for people."""
    chosen = f" of {self.features_seen}"
    some = chosen if self.features < self.features_seen else ""
    return (
      f"{self.num_clusters} words of {self.dimension} values from "
      f"{self.features}{some} features, {len(self.objectives)} iterations "
      f"({self.method}), mean squared distance {self.objectives[-1]:.6g}, "
      f"{sum(self.moved)} empty words moved, {len(self.failed)} files failed, "
      f"{self.seconds:.1f} s"
    )


def cluster_files(paths, codebook, **options):
  """Trains a codebook on the features of files.

  A run that was ended at any moment can be repeated: it goes on, and gets the
  codebook that it would have got, bit for bit on the same machine.

  Args:
    paths: Paths of feature files of one dimension.
    codebook: Prefix of the TensorFlow checkpoint to be, which holds [K, D]
      float32 under `codebook`. Beside it `<prefix>.json` says how it was made.
    **options: Fields of ClusterOptions.

  Returns:
    ClusterReport.

  Raises:
    InputError: If an option cannot be; the codebook is there; what is
      unfinished there is of other files or settings; or there are fewer
      features than words.
    OSError: If files cannot be written.
  """
  options = ClusterOptions(**options)
  begin = time.perf_counter()
  paths = list(map(os.fspath, paths))
  folder = pathlib.Path(f"{codebook}{_UNFINISHED}")
  refuse_finished(codebook)
  _claim(folder, paths, options)
  pool = gather(paths, folder, options.max_features, options.seed)
  _check(pool, options, folder)
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
  described = json.dumps(dataclasses.asdict(report), indent=2)
  files.write_bytes(f"{codebook}.json", described.encode())
  visual_words.write_codebook(codebook, state.centers)
  shutil.rmtree(folder, ignore_errors=True)
  return report


def refuse_finished(codebook):
  """Raises an InputError if a codebook is there; what it was made of goes."""
  if os.path.exists(f"{codebook}.index"):
    shutil.rmtree(f"{codebook}{_UNFINISHED}", ignore_errors=True)
    raise errors.InputError(
      "a place without a codebook", "a finished one", codebook
    )


def _claim(folder, paths, options):
  """Writes down what a run is of, or compares it with the run before."""
  names = hashlib.sha256()
  for path in paths:
    names.update(f"{os.path.basename(path)}\0{_stamp(path)}\0".encode())
  wanted = {
    "feature files": names.hexdigest(),
    "num_clusters": options.num_clusters,
    "max_features": options.max_features,
    "seed": options.seed,
    "method": options.method,
  }
  if not (folder / _SETTINGS).exists():
    files.write_bytes(folder / _SETTINGS, json.dumps(wanted).encode())
    return
  try:
    found = json.loads(files.read_bytes(folder / _SETTINGS))
  except ValueError:
    found = {}
  for name, value in wanted.items():
    if not isinstance(found, dict) or found.get(name) != value:
      other = name == "feature files" or not isinstance(found, dict)
      raise errors.InputError(
        f"a run with the same {name} to go on with (without this folder it "
        "begins anew)",
        "one with others" if other else f"{name} {found.get(name)}",
        folder,
      )


def _stamp(path):
  """Returns what tells a file from a later one of its name."""
  try:
    stat = os.stat(path)
  except OSError:
    return "missing"
  return f"{stat.st_size} {stat.st_mtime_ns}"


def _check(pool, options, folder):
  """Raises an InputError, with a reason, if features are too few."""
  if len(pool.features) >= options.num_clusters:
    return
  shutil.rmtree(folder, ignore_errors=True)
  found = f"{len(pool.features)}"
  if pool.failures:
    found += f"; first of {len(pool.failures)} bad files: {pool.failures[0]}"
  raise errors.InputError(
    f"at least as many features as words, {options.num_clusters}", found
  )


def _iterate(features, path, options, method):
  """Returns the last state; those between are saved."""
  state = read(path)
  if state is None:
    state = kmeans.start(features, options.num_clusters, options.seed)
  else:
    logging.info("Going on after iteration %d.", state.iteration)
  last, saved = time.monotonic(), state
  bar = progress.track(
    range(state.iteration, options.num_iterations), "clustering"
  )
  for _ in bar:
    if state.converged:
      break
    state = kmeans.step(features, state, method)
    bar.set_postfix_str(f"mean squared distance {state.objectives[-1]:.6g}")
    if time.monotonic() - last >= options.save_interval:
      write(path, state)
      last, saved = time.monotonic(), state
  if saved is not state:
    write(path, state)
  return state
