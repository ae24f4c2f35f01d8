"""Processor cores, look-ahead in threads, and signals that end a run."""

import collections
import concurrent.futures
import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import logging


def core_count() -> int:
  """Return the number of processor cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def futures_ahead(
  function: Callable, items: Iterable, workers: int, pending: int
) -> Iterator[concurrent.futures.Future]:
  """Apply a function in threads and yield finished futures in order of items.

  Items may be endless: at most `pending` results wait, which bounds the memory.
  0 workers work in the caller's thread.
  """
  items = iter(items)
  if workers <= 0:
    for item in items:
      future = concurrent.futures.Future()
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
      # Not earlier: what the caller holds would be one more.
      waiting.extend(
        pool.submit(function, item) for item in itertools.islice(items, 1)
      )
  finally:
    pool.shutdown(cancel_futures=True)


def map_ahead(
  function: Callable, items: Iterable, workers: int, pending: int
) -> Iterator:
  """Yield results as `futures_ahead` does; an error is raised at its result."""
  ahead = futures_ahead(function, items, workers, pending)
  with contextlib.closing(ahead):
    for future in ahead:
      yield future.result()


class StopRequest:
  """Holds the number of the signal that asked a run to stop, or None."""

  signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turn SIGTERM and SIGINT into a request to stop after the running step.

  A second signal acts as usual. Has no effect outside of the main thread.
  """
  request = StopRequest()
  if threading.current_thread() is not threading.main_thread():
    yield request
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before: dict[int, Any] = {each: signal.getsignal(each) for each in numbers}

  def stop(number, _):
    name = signal.Signals(number).name
    logging.info("%s: saves and stops after this step", name)
    request.signal = number
    signal.signal(number, before[number])

  try:
    for number in numbers:
      signal.signal(number, stop)
    yield request
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
