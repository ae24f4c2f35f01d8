"""Processor cores, look-ahead in threads, and signals that end a run."""

import collections
import concurrent.futures
import contextlib
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


def map_ahead(
  function: Callable, items: Iterable, workers: int, pending: int
) -> Iterator:
  """Apply a function in threads and yield the results in the order of items.

  Args:
    function: Called with one item; what it raises is raised at its result.
    items: May be endless: an item is taken when there is room for its result.
    workers: Number of threads.
    pending: Results that may wait at once, which bounds the memory.
  """
  pool = concurrent.futures.ThreadPoolExecutor(workers)
  waiting = collections.deque()
  try:
    for item in items:
      waiting.append(pool.submit(function, item))
      if len(waiting) >= pending:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


class StopRequest:
  """Holds the number of the signal that asked a run to stop, or None."""

  signal: int | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
  """Turn SIGTERM and SIGINT into a request to stop after the running step.

  A second signal of a kind acts as it would without this. Only the main thread
  can catch signals; in others nothing changes.
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
