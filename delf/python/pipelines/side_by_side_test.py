import threading

import numpy as np
import pytest

from delf.protos import delf_config_pb2
from delf.python.pipelines import batching, prefetch, side_by_side


class _Extractor:
  """Waits for another image to be extracted, if there are threads for it."""

  def __init__(self, at_once):
    self._barrier = threading.Barrier(at_once)
    self.most = self._now = 0
    self._lock = threading.Lock()

  def extract(self, image, resize_factor=1.0):
    with self._lock:
      self._now += 1
      self.most = max(self.most, self._now)
    self._barrier.wait(timeout=60)
    with self._lock:
      self._now -= 1
    if image[0, 0, 0] == 3:
      raise ValueError("three")
    return int(image[0, 0, 0]), resize_factor


def _stream(number):
  for i in range(number):
    pixels = np.full([i + 1, 2, 3], i, np.uint8)
    yield prefetch.Decoded(i, image=pixels, resize_factor=1 + i % 2)


def test_results_come_in_order_and_errors_are_theirs():
  many = side_by_side.SideBySide(_Extractor(2), lambda shape: 8, 2)
  found = list(many.run(_stream(6)))
  assert [decoded.job for decoded, _ in found] == list(range(6))
  values = [value for _, value in found]
  assert isinstance(values.pop(3), ValueError)
  assert values == [(0, 1), (1, 2), (2, 1), (4, 1), (5, 2)]


class _First:
  """Extracts the first image when five others are done."""

  def __init__(self):
    self._others = threading.Semaphore(0)

  def extract(self, image, resize_factor=1.0):
    if image[0, 0, 0]:
      self._others.release()
      return int(image[0, 0, 0])
    return all(self._others.acquire(timeout=60) for _ in range(5))


def test_others_go_on_beside_one_that_takes_long():
  many = side_by_side.SideBySide(_First(), lambda shape: 8, 2)
  found = [value for _, value in many.run(_stream(6))]
  assert found == [True, 1, 2, 3, 4, 5]


def test_no_more_at_once_than_fit_in_memory():
  extractor = _Extractor(1)
  many = side_by_side.SideBySide(extractor, lambda shape: 2, 4)
  assert len(list(many.run(_stream(12)))) == 12
  assert extractor.most <= 2


def test_what_could_not_be_decoded_passes_through():
  error = OSError("gone")
  many = side_by_side.SideBySide(_Extractor(1), lambda shape: 8, 2)
  ((_, found),) = many.run([prefetch.Decoded(0, error=error)])
  assert found is error


@pytest.mark.parametrize(
  ("device", "kind"),
  [
    ("CPU", side_by_side.SideBySide),
    ("GPU:0 (name)", batching.BatchExtractor),
  ],
)
def test_a_gpu_takes_batches(device, kind):
  config = delf_config_pb2.DelfConfig(image_scales=[1.0])
  assert isinstance(side_by_side.make(_Extractor(1), config, device), kind)
