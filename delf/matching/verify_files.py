"""Local features of many images, kept while they fit in memory."""

import collections
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from multiprocessing import connection

import numpy as np

import delf
from delf.base import concurrency, errors, files, progress
from delf.extraction import engine
from delf.matching import matcher
from delf.python import feature_io


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
  """Images and their files of local features.

  Attributes:
    names: Sequence of N str.
    paths: Sequence of N paths of `.delf` or `.delg_local` files.
  """

  names: tuple[str, ...]
  paths: tuple[str, ...]


class SideCache:
  """Reads and prepares the features of images; the last used ones are kept."""

  def __init__(self, paths, most_bytes):
    """Creates it; nothing is read yet.

    Args:
      paths: Sequence of paths of feature files.
      most_bytes: Bytes that prepared features may take; one image may be over
        it.
    """
    self._paths = paths
    self._most_bytes = most_bytes
    self._sides = collections.OrderedDict()
    self._bytes = 0
    self.reads = 0

  def get(self, number):
    """Returns the features of an image.

    Args:
      number: Its place among the paths.

    Returns:
      verification.Side, or one line of str that says why there is none.
    """
    side = self._sides.get(number)
    if side is not None:
      self._sides.move_to_end(number)
      return side
    side = _load(self._paths[number])
    self.reads += 1
    self._sides[number] = side
    self._bytes += _size(side)
    while self._bytes > self._most_bytes and len(self._sides) > 1:
      _, oldest = self._sides.popitem(last=False)
      self._bytes -= _size(oldest)
    return side


def _load(path):
  try:
    found = feature_io.read_local_features(path)
    return matcher.prepare(found.locations, found.descriptors)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{path}: ")


def _size(side):
  return 0 if isinstance(side, str) else side.nbytes


# A line per pair: version and settings, name, size in bytes and time of the
# query's and of the image's feature file, number of inliers. The time is in it
# because files of one number of features all have one size.
RECORD = "verified_pairs.jsonl"


class VerifiedRecord:
  """The record of one output folder."""

  def __init__(self, folder, options):
    """Reads what is there of the same version and settings.

    Args:
      folder: Path of the output folder; need not exist.
      options: verification.VerifyOptions.
    """
    self._path = pathlib.Path(folder) / RECORD
    self._settings = _settings(options)
    self._known = _read(self._path, self._settings)
    self._file = None

  def find(self, query, image):
    """Returns the inliers of a pair, or None if it is not known.

    Args:
      query: What `identify` returned for the query's feature file.
      image: The same for the index image's.
    """
    return self._known.get((query, image))

  def add(self, pairs, inliers):
    """Records pairs, all in one write.

    Args:
      pairs: Sequence of (query, image) as `find` takes them.
      inliers: Sequence of their numbers of inliers.
    """
    lines = [
      f"{json.dumps([self._settings, query, image, int(number)])}\n"
      for (query, image), number in zip(pairs, inliers, strict=True)
    ]
    if not lines:
      return
    if self._file is None:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = files.open_to_append(self._path)
    self._file.write("".join(lines).encode())
    self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None


def identify(name, path):
  """Returns (name, bytes, time in ns) of a file; None without one."""
  try:
    found = os.stat(path)
  except (OSError, ValueError):
    return None
  return name, found.st_size, found.st_mtime_ns


def _settings(options):
  """Returns words for what the number of inliers depends on."""
  test = "ratio" if options.use_ratio_test else "distance"
  return (
    f"delf {delf.__version__} {test} {float(options.descriptor_threshold)!r}"
    f" residual {float(options.residual_threshold)!r} seed {options.seed}"
  )


def _read(path, settings):
  """Returns {(query, image): inliers}; lines that are cut are left out."""
  known = {}
  for line in files.read_bytes(path).splitlines() if path.exists() else []:
    try:
      made_with, query, image, inliers = json.loads(line)
      is_number = isinstance(inliers, int) and 0 <= inliers < 2**31
      if made_with == settings and is_number:
        known[tuple(query), tuple(image)] = inliers
    except (ValueError, TypeError, RecursionError):
      continue  # Cut, as a run was killed.
  return known


# Threads of the matrix products of one worker: workers are what uses the cores,
# and threads of OpenBLAS that wait take as much of them as those that work
# (34 ms of processor time a pair on two cores, 16 without them).
_THREADS = (
  "OPENBLAS_NUM_THREADS",
  "OMP_NUM_THREADS",
  "MKL_NUM_THREADS",
  "VECLIB_MAXIMUM_THREADS",
)
_PROGRAM = """import sys
from delf.python.pipelines import verify_workers
verify_workers.serve(int(sys.argv[1]))
"""


class Verifier:
  """Verifies pairs of images whose features it reads and keeps."""

  def __init__(self, query_paths, index_paths, options, most_bytes):
    """Creates it.

    Args:
      query_paths: Paths of the queries' feature files.
      index_paths: Paths of the index images' feature files.
      options: verification.VerifyOptions.
      most_bytes: Bytes that features may take.
    """
    self._options = options
    # Pairs come image by image, so that a few of the index are enough.
    self._queries = SideCache(query_paths, 3 * most_bytes // 4)
    self._index = SideCache(index_paths, most_bytes // 4)

  def __call__(self, pairs):
    """Verifies pairs.

    Args:
      pairs: [P, 2] int, (query, index image).

    Returns:
      list of P int, the inliers, or (str, side) where there are none: one line
      that says why, and 0 for the query's file or 1 for the index image's.
    """
    return [self._verify(query, image) for query, image in pairs.tolist()]

  def _verify(self, query, image):
    sides = self._queries.get(query), self._index.get(image)
    for place, side in enumerate(sides):
      if isinstance(side, str):
        return side, place
    try:
      return matcher.verify(*sides, self._options).inliers
    except errors.InputError as error:
      return errors.one_line(error), 1


def run(chunks, number, verifier_arguments):
  """Verifies chunks of pairs.

  Args:
    chunks: list of [P, 2] int arrays.
    number: Number of processes; 1 works in this one, as does any number where
      the system cannot hand a pipe over.
    verifier_arguments: What `Verifier` takes.

  Yields:
    (chunk, what `Verifier` returned for it), in the order they are done.

  Raises:
    OSError: If a process ended early, as for want of memory.
  """
  if number <= 1 or os.name != "posix" or not sys.executable:
    verify = Verifier(*verifier_arguments)
    for chunk in chunks:
      yield chunk, verify(chunk)
    return
  with _processes(number, verifier_arguments) as pipes:
    yield from _share_out(collections.deque(chunks), pipes)


def _share_out(chunks, pipes):
  """Gives each free process the next chunk; yields what comes back."""
  busy = {}
  for pipe in pipes:
    _send_next(chunks, pipe, busy)
  while busy:
    for pipe in connection.wait(list(busy)):
      chunk = busy.pop(pipe)
      try:
        result = pipe.recv()
        _send_next(chunks, pipe, busy)
      except (EOFError, ConnectionError):
        raise OSError(
          "a process that verifies was ended from outside (too little memory?)"
        ) from None
      yield chunk, result


def _send_next(chunks, pipe, busy):
  if chunks:
    busy[pipe] = chunks.popleft()
    with contextlib.suppress(ConnectionError):  # Seen when it is listened to.
      pipe.send(busy[pipe])


@contextlib.contextmanager
def _processes(number, verifier_arguments):
  """Gives one pipe to each of some processes, which end with it."""
  started = []
  try:
    for _ in range(number):
      started.append(_start())
    for pipe, _ in started:
      with contextlib.suppress(ConnectionError):  # Seen when it is listened to.
        pipe.send(verifier_arguments)
    yield [pipe for pipe, _ in started]
  finally:
    for pipe, _ in started:
      pipe.close()
    for _, process in started:
      process.wait()


def _start():
  """Returns a pipe to a new process that works, and the process."""
  # Not by `multiprocessing`, which would run the caller's own script again. A
  # fork would share the state of threads that run.
  environment = os.environ | dict.fromkeys(_THREADS, "1")
  paths = (path or os.getcwd() for path in sys.path)
  environment["PYTHONPATH"] = os.pathsep.join(paths)
  ours, theirs = multiprocessing.Pipe()
  with theirs:  # Closed here, or the end of the process would not be seen.
    number = theirs.fileno()
    process = subprocess.Popen(
      [sys.executable, "-c", _PROGRAM, str(number)],
      env=environment,
      stdin=subprocess.DEVNULL,
      pass_fds=[number],
    )
  return ours, process


def serve(descriptor):
  """Verifies what comes, in a process of its own, until the pipe closes.

  Args:
    descriptor: File descriptor of the pipe: what `Verifier` takes, then pairs.
  """
  # The program that started it decides what an interrupt means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # The pipe closes also when that program is killed.
  with (
    contextlib.suppress(EOFError, ConnectionError),
    connection.Connection(descriptor) as pipe,
  ):
    verify = Verifier(*pipe.recv())
    while True:
      pipe.send(verify(pipe.recv()))


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
  failed: tuple[engine.Failure, ...]
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
    work.resume(VerifiedRecord(folder, options))
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
        number: identify(side.names[number], side.paths[number])
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
    results = run(chunks, workers, arguments)
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
      engine.Failure(str(self._sides[side].paths[number]), reason)
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
    return max(1, min(concurrency.core_count(), pairs // _WORTH_A_PROCESS))
  if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
    raise errors.InputError("a number of processes over 0", repr(workers))
  return workers
