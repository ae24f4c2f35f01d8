"""Verification of chunks of pairs, here or in processes of their own."""

import collections
import contextlib
import multiprocessing
import os
import signal
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
    number: Number of processes; 1 works in this one.
    verifier_arguments: What `Verifier` takes.

  Yields:
    (chunk, what `Verifier` returned for it), in the order they are done.

  Raises:
    OSError: If a process ended early, as for want of memory.
  """
  if number <= 1:
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
    pipe.send(chunks[0])
    busy[pipe] = chunks.popleft()


@contextlib.contextmanager
def _processes(number, verifier_arguments):
  """Gives one pipe to each of some processes, which end with it."""
  # A new interpreter each: a fork would share the state of running threads.
  context = multiprocessing.get_context("spawn")
  pipes, processes = [], []
  try:
    with _environment(dict.fromkeys(_THREADS, "1")):
      for _ in range(number):
        ours, theirs = context.Pipe()
        process = context.Process(
          target=_serve, args=(theirs, verifier_arguments), daemon=True
        )
        process.start()
        theirs.close()  # Or the end of the process would not be seen.
        pipes.append(ours)
        processes.append(process)
    yield pipes
  finally:
    for pipe in pipes:
      pipe.close()
    for process in processes:
      process.join()


@contextlib.contextmanager
def _environment(changes):
  before = {name: os.environ.get(name) for name in changes}
  os.environ.update(changes)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _serve(pipe, verifier_arguments):
  """Verifies what comes, in a process of its own, until the pipe closes."""
  # The program that started it decides what an interrupt means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  verify = Verifier(*verifier_arguments)
  # Also when that program is killed, which closes the pipe.
  with contextlib.suppress(EOFError, ConnectionError):
    while True:
      pipe.send(verify(pipe.recv()))
