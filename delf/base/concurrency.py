"""Processor cores, look-ahead in threads, and signals that end a run."""

import collections
import concurrent.futures
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator

from absl import logging


def core_count() -> int:
  """Return the number of processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def futures_ahead(
  function: Callable, items: Iterable, workers: int, pending: int
) -> Generator[concurrent.futures.Future, None, None]:
  """Apply a function in threads; yield finished futures in order of the items.

  Items may be endless: at most `pending` results are in memory. With 0 workers,
  the function runs in the caller's thread.
  """
  items = iter(items)
  if workers <= 0:
    for item in items:
      future: concurrent.futures.Future = concurrent.futures.Future()
      try:
        future.set_result(function(item))
      except Exception as error:
        future.set_exception(error)
      yield future
    return
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  try:
    waiting = collections.deque(
      pool.submit(function, item) for item in itertools.islice(items, pending)
    )
    while waiting:
      future = waiting.popleft()
      concurrent.futures.wait([future])
      yield future
      # Not before `yield`, or `pending + 1` results would be in memory.
      waiting.extend(
        pool.submit(function, item) for item in itertools.islice(items, 1)
      )
  finally:
    pool.shutdown(cancel_futures=True)


def map_ahead(
  function: Callable, items: Iterable, workers: int, pending: int
) -> Iterator:
  """Yield the results of `futures_ahead`; raise an error when it is reached."""
  ahead = futures_ahead(function, items, workers, pending)
  with contextlib.closing(ahead):
    for future in ahead:
      yield future.result()


class StopRequest:
  """The signal that a run received and that ends it, or None."""

  signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turn a first SIGTERM or SIGINT into a request to stop after this step.

  Outside the main thread this has no effect.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.getsignal(number) for number in numbers}

  def stop(number, _):
    name = signal.Signals(number).name
    logging.info("%s: saving and stopping after this step", name)
    request.signal = number
    signal.signal(number, before[number])

  try:
    for number in numbers:
      signal.signal(number, stop)
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
