"""Codebooks from feature files: gathered, clustered, written.

All that a run has done stands in a folder beside the codebook until that is
written, so that a run that was killed at any moment goes on where it was.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import time

from absl import logging

from delf.python import codebook_io, errors, files, progress
from delf.python.pipelines import cluster_state, extract_report, feature_pool
from delf.python.retrieval import clustering

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
  method: str = clustering.AUTOMATIC
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
  failed: tuple[extract_report.Failure, ...] = ()
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
  pool = feature_pool.gather(paths, folder, options.max_features, options.seed)
  _check(pool, options, folder)
  method = clustering.choose_method(
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
  codebook_io.write_codebook(codebook, state.centers)
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
  state = cluster_state.read(path)
  if state is None:
    state = clustering.start(features, options.num_clusters, options.seed)
  else:
    logging.info("Going on after iteration %d.", state.iteration)
  last, saved = time.monotonic(), state
  bar = progress.track(
    range(state.iteration, options.num_iterations), "clustering"
  )
  for _ in bar:
    if state.converged:
      break
    state = clustering.step(features, state, method)
    bar.set_postfix_str(f"mean squared distance {state.objectives[-1]:.6g}")
    if time.monotonic() - last >= options.save_interval:
      cluster_state.write(path, state)
      last, saved = time.monotonic(), state
  if saved is not state:
    cluster_state.write(path, state)
  return state
