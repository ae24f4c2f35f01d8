"""Verification of chunks of pairs, here or in processes of their own."""

import collections
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import connection

from delf.python import errors
from delf.python.pipelines import side_cache
from delf.python.retrieval import verification

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
    self._queries = side_cache.SideCache(query_paths, 3 * most_bytes // 4)
    self._index = side_cache.SideCache(index_paths, most_bytes // 4)

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
      return verification.verify(*sides, self._options).inliers
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
