"""Geometric verification of many pairs of images by their feature files."""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np

import delf
from delf.base import concurrency, errors, manifest, progress
from delf.extraction import engine
from delf.formats import features
from delf.matching import matcher
from delf.python import feature_io

# Bytes that features may take in all processes together.
CACHE_BYTES = 2**30

# Prepared features take about this many times the bytes of their file.
_PREPARED = 2.2
# Pairs that are recorded at once, the work that a killed run loses per process.
_CHUNK = 8
# Pairs that are worth a process: about a second of work.
_WORTH_A_PROCESS = 60


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
  """Images and their files of local features."""

  names: Sequence[str]  # The record knows a file by name, size and time.
  # Takes the number of an image; called once for each that is verified.
  path: Callable[[int], str]
  # Contents of some files by path, which are not read.
  in_memory: Mapping[str, features.LocalFeatures] = dataclasses.field(
    default_factory=dict
  )


@dataclasses.dataclass(frozen=True)
class VerifyReport:
  """Result of verifying pairs."""

  pairs: np.ndarray  # [P, 2] int64, (query, index image), sorted, each once.
  inliers: np.ndarray  # [P] int32; 0 for pairs that failed.
  needed: np.ndarray  # [P] int32, least number of inliers of a match.
  failed: tuple[engine.Failure, ...]  # Feature files, those of queries first.
  resumed: int  # Number of pairs that were in the record.
  seconds: float

  def look_up(self, queries: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return the inliers of M pairs, [M] int32; KeyError if one is missing."""
    return self.inliers[self._rows(queries, images)]

  def is_match(self, queries: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return whether M pairs match, [M] bool; KeyError if one is missing."""
    rows = self._rows(queries, images)
    return self.inliers[rows] >= np.maximum(self.needed[rows], 1)

  def _rows(self, queries, images):
    pairs = np.stack([queries, images], axis=1).astype(np.int64)
    if not len(pairs):
      return np.zeros([0], np.int64)
    width = max(np.max(self.pairs, initial=0), np.max(pairs)) + 1
    known, pairs = self.pairs @ [width, 1], pairs @ [width, 1]
    rows = np.minimum(np.searchsorted(known, pairs), len(known) - 1)
    if not len(known) or (known[rows] != pairs).any():
      raise KeyError("a pair that was not verified")
    return rows

  def summary(self) -> str:
    """Return one line for people."""
    new = len(self.pairs) - self.resumed
    speed = f" ({new / self.seconds:.0f} pairs/s)" if new else ""
    return (
      f"{new} pairs verified, {self.resumed} known already,"
      f" {len(self.failed)} feature files failed in {self.seconds:.1f} s{speed}"
    )


def verify_pairs(
  pairs: np.ndarray,
  queries: FeatureFiles,
  index: FeatureFiles,
  options: matcher.MatchOptions,
  folder: str | os.PathLike | None = None,
  workers: int | None = None,
  cache_bytes: int = CACHE_BYTES,
) -> VerifyReport:
  """Count the inliers of pairs of images, from the index image to the query.

  A killed run can be repeated: pairs are recorded in the folder, by options and
  by sizes and times of both files, on which alone their result depends. A file
  that cannot be used is reported; its pairs have 0 inliers, and are not
  recorded. OSError if the record cannot be written, or a process was killed.

  Args:
    pairs: [P, 2] int, (query, index image); repeated ones are verified once.
    folder: Local folder of the record; None for no record.
    workers: Processes; None for one per core, fewer for few pairs.
  """
  start = time.perf_counter()
  in_memory = {**queries.in_memory, **index.in_memory}
  pairs = np.unique(np.asarray(pairs, np.int64).reshape([-1, 2]), axis=0)
  query_files, image_files = (
    {number: _File.identify(side, number) for number in set(column.tolist())}
    for side, column in zip((queries, index), pairs.T, strict=True)
  )
  both = [(query_files[q], image_files[i]) for q, i in pairs.tolist()]
  record = _Record(folder, options)
  known = [record.results.get((query.key, image.key)) for query, image in both]
  # Rows of (inliers, needed inliers).
  counts = np.array([each or (0, 0) for each in known], np.int32).reshape(-1, 2)
  todo = np.flatnonzero([each is None for each in known])
  workers = _number_of_workers(workers, len(todo))
  most_bytes = max(1, cache_bytes // workers)
  # Image by image, so that each file of the index is read once for the queries
  # that fit in memory.
  sizes = (file.key[1] for file in query_files.values())
  size = _PREPARED * max(sizes, default=1)
  block = max(1, int(most_bytes / 2 / max(size, 1)))
  query, image = pairs[todo].T
  todo = todo[np.lexsort((query, image, query // block))].tolist()
  chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
  failed: dict[tuple, tuple] = {}

  def results():
    """Yield the place of each pair and its result; record the good ones."""
    work = [[(both[p][0].path, both[p][1].path) for p in c] for c in chunks]
    arguments = options, most_bytes, in_memory
    with contextlib.closing(_run(work, workers, arguments)) as done:
      for number, result in done:
        chunk = list(zip(chunks[number], result, strict=True))
        record.add(
          {
            tuple(file.key for file in both[place]): each
            for place, each in chunk
            if isinstance(each[0], int)
          }
        )
        yield from chunk

  with contextlib.closing(record), contextlib.closing(results()) as steps:
    steps = progress.track(steps, "verifying", total=len(todo)) if todo else ()
    for place, result in steps:
      if isinstance(result[0], int):
        counts[place] = result
      else:
        reason, side = result
        file = both[place][side]
        failed.setdefault((side, pairs[place, side]), (file.path, reason))
  return VerifyReport(
    pairs=pairs,
    inliers=counts[:, 0],
    needed=counts[:, 1]
    if options.min_inliers is None
    else np.full(len(pairs), options.min_inliers, np.int32),
    failed=tuple(engine.Failure(*failed[key]) for key in sorted(failed)),
    resumed=len(pairs) - len(todo),
    seconds=time.perf_counter() - start,
  )


class _File(NamedTuple):
  path: str
  # Name, bytes, and time in ns, since files with equally many features have one
  # size. Zeros without a file, which no record has.
  key: tuple[str, int, int]

  @classmethod
  def identify(cls, side, number):
    path, size, time_ns = os.fspath(side.path(number)), 0, 0
    with contextlib.suppress(OSError, ValueError):
      status = os.stat(path)
      size, time_ns = status.st_size, status.st_mtime_ns
    return cls(path, (side.names[number], size, time_ns))


def _number_of_workers(workers, pairs):
  if workers is None:
    return max(1, min(concurrency.core_count(), pairs // _WORTH_A_PROCESS))
  if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
    raise errors.InputError(
      f"workers must be a number of processes over 0, not {workers!r}"
    )
  return workers


# A line per pair: version and settings, name, size in bytes and time of the
# query's and of the image's feature file, number of inliers, and how many make
# a match.
RECORD = "verified_pairs.jsonl"


class _Record:
  """The verified pairs, of one version and settings, of one output folder.

  Results are (inliers, needed inliers) by (key of the query's file, key of the
  image's). Without a folder nothing is read or written.
  """

  def __init__(self, folder, options):
    self._journal = folder and manifest.Journal(pathlib.Path(folder) / RECORD)
    self._settings = f"delf {delf.__version__} {' '.join(options.describe())}"
    self.results: dict[tuple, tuple[int, int]] = {}
    if self._journal:
      self._journal.read(self._keep)

  def _keep(self, entry):
    settings, query, image, *result = entry
    is_valid = len(result) == 2 and all(
      isinstance(number, int) and 0 <= number < 2**31 for number in result
    )
    if settings == self._settings and is_valid:
      self.results[tuple(query), tuple(image)] = tuple(result)

  def add(self, results):
    if self._journal and results:
      self._journal.add(
        *([self._settings, *pair, *each] for pair, each in results.items())
      )

  def close(self):
    if self._journal:
      self._journal.close()


class FeatureCache:
  """Reads and prepares feature files, and keeps those used last."""

  def __init__(
    self,
    most_bytes: int,
    in_memory: Mapping[str, features.LocalFeatures] | None = None,
  ):
    """Keep features of `most_bytes` bytes; a single image may exceed it."""
    self.reads = 0  # Files that were read.
    self._in_memory = in_memory or {}
    self._most_bytes = most_bytes
    self._kept: collections.OrderedDict = collections.OrderedDict()
    self._bytes = 0

  def get(self, path: str) -> matcher.PreparedFeatures | str:
    """Return the features of a file, or one line that says why not."""
    if path in self._kept:
      self._kept.move_to_end(path)
      return self._kept[path]
    try:
      if path in self._in_memory:
        local = self._in_memory[path]
      else:
        self.reads += 1
        local = feature_io.read_local_features(path)
      prepared: Any = matcher.prepare(local.locations, local.descriptors)
    except (errors.InputError, OSError) as error:
      prepared = errors.one_line(error).removeprefix(f"{path}: ")
    self._kept[path] = prepared
    self._bytes += getattr(prepared, "nbytes", 0)
    while self._bytes > self._most_bytes and len(self._kept) > 1:
      _, oldest = self._kept.popitem(last=False)
      self._bytes -= getattr(oldest, "nbytes", 0)
    return prepared


class Verifier:
  """Verifies pairs of feature files, which it reads and keeps."""

  def __init__(
    self,
    options: matcher.MatchOptions,
    most_bytes: int,
    in_memory: Mapping[str, features.LocalFeatures] | None = None,
  ):
    """Keep features of `most_bytes` bytes."""
    # The record does not depend on the requested number of inliers.
    self._options = dataclasses.replace(options, min_inliers=None)
    # Pairs come image by image, so that a few of the index are enough.
    self.queries = FeatureCache(3 * most_bytes // 4, in_memory)
    self.index = FeatureCache(most_bytes // 4, in_memory)

  def __call__(
    self, pairs: list[tuple[str, str]]
  ) -> list[tuple[int, int] | tuple[str, int]]:
    """Verify pairs of paths, of a query's and an index image's features.

    Returns for each (inliers, needed inliers), or where a file cannot be used
    (reason in one line, 0 for the query's file or 1 for the index image's).
    """
    return [self._verify(*pair) for pair in pairs]

  def _verify(self, query, image):
    one, two = self.queries.get(query), self.index.get(image)
    if isinstance(one, str):
      return one, 0
    if isinstance(two, str):
      return two, 1
    try:
      match = matcher.match_prepared(one, two, self._options, backward=True)
      return match.score, match.min_inliers
    except errors.InputError as error:
      return errors.one_line(error), 1


# Threads of matrix products of one worker: the workers use all cores, and idle
# threads of OpenBLAS spin (34 ms of processor time a pair on two cores, 16 with
# one thread).
_THREADS = (
  "OPENBLAS_NUM_THREADS",
  "OMP_NUM_THREADS",
  "MKL_NUM_THREADS",
  "VECLIB_MAXIMUM_THREADS",
)
_PROGRAM = """import sys
from delf.matching import verification
verification.serve(int(sys.argv[1]))
"""


def _run(chunks, workers, arguments) -> Generator:
  """Verify chunks of pairs by `Verifier(*arguments)`.

  Yields (number of the chunk, results) in the order of completion. A single
  worker is this process, and so is any number where pipes cannot be inherited.
  """
  if workers <= 1 or os.name != "posix" or not sys.executable:
    verify = Verifier(*arguments)
    for number, chunk in enumerate(chunks):
      yield number, verify(chunk)
    return
  waiting, busy = collections.deque(enumerate(chunks)), {}

  def send_next(pipe):
    if waiting:
      busy[pipe], chunk = waiting.popleft()
      _send(pipe, chunk)

  with _processes(workers, arguments) as pipes:
    for pipe in pipes:
      send_next(pipe)
    while busy:
      ready: list = connection.wait(list(busy))
      for pipe in ready:
        try:
          number, result = busy.pop(pipe), pipe.recv()
        except (EOFError, ConnectionError):
          raise OSError(
            "a process of the verification was killed (too little memory?)"
          ) from None
        send_next(pipe)
        yield number, result


def _send(pipe, content):
  with contextlib.suppress(ConnectionError):  # Noticed when receiving.
    pipe.send(content)


@contextlib.contextmanager
def _processes(number, arguments):
  """Start processes, and yield a pipe to each; they end with their pipe."""
  started = []
  try:
    for _ in range(number):
      started.append(_start())
    for pipe, _ in started:
      _send(pipe, arguments)
    yield [pipe for pipe, _ in started]
  finally:
    for pipe, _ in started:
      pipe.close()
    for _, process in started:
      process.wait()


def _start():
  """Start a process, and return a pipe to it, and the process."""
  # Not by `multiprocessing`, which would run the caller's own script again. A
  # fork would copy the state of running threads.
  environment = os.environ | dict.fromkeys(_THREADS, "1")
  paths = (path or os.getcwd() for path in sys.path)
  environment["PYTHONPATH"] = os.pathsep.join(paths)
  ours, theirs = multiprocessing.Pipe()
  with theirs:  # Closed here, or the end of the process would go unnoticed.
    number = theirs.fileno()
    process = subprocess.Popen(
      [sys.executable, "-c", _PROGRAM, str(number)],
      env=environment,
      stdin=subprocess.DEVNULL,
      pass_fds=[number],
    )
  return ours, process


def serve(descriptor: int) -> None:
  """Verify pairs in a process of its own until the pipe closes.

  The pipe sends the arguments of `Verifier`, then chunks of pairs.
  """
  # The parent process handles interrupts.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # The pipe closes also when the parent is killed.
  with (
    contextlib.suppress(EOFError, ConnectionError),
    connection.Connection(descriptor) as pipe,
  ):
    verify = Verifier(*pipe.recv())
    while True:
      pipe.send(verify(pipe.recv()))
