"""Stopping a run from outside, between two steps."""

import contextlib
import signal
import threading

from absl import logging


class Stop:
  """Which signal has asked for an end.

  Attributes:
    signal: Number of the signal, or None.
  """

  def __init__(self):
    self.signal = None


@contextlib.contextmanager
def on_signals():
  """Has SIGTERM and SIGINT end a run after the step that is running.

  A second one ends the program as it would without. Only the main thread can
  catch signals; in others nothing changes.

  Yields:
    Stop.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread():
    yield stop
    return
  numbers = (signal.SIGTERM, signal.SIGINT)
  before = {number: signal.getsignal(number) for number in numbers}

  def ask(number, _):
    name = signal.Signals(number).name
    logging.info("%s: saves and stops after this step", name)
    stop.signal = number
    signal.signal(number, before[number])

  try:
    for number in numbers:
      signal.signal(number, ask)
    yield stop
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
