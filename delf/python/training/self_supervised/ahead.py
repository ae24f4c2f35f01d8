"""Batches that are made while others are learnt from."""

import queue
import threading

import cv2


def batches(source, ahead=4):
  """Yields batches that a thread makes ahead of time.

  Args:
    source: data.Source.
    ahead: So many wait at most.

  Yields:
    data.Batch, for ever; an error in the thread is raised here.
  """
  ready = queue.Queue(ahead)
  stopped = threading.Event()

  def work():
    cv2.setNumThreads(1)
    while not stopped.is_set():
      try:
        item = source.batch()
      except Exception as error:  # noqa: BLE001 - handed to the consumer
        item = error
      ready.put(item)
      if isinstance(item, Exception):
        return

  threading.Thread(target=work, daemon=True).start()
  try:
    while True:
      item = ready.get()
      if isinstance(item, Exception):
        raise item
      yield item
  finally:
    stopped.set()
    while not ready.empty():
      ready.get()
