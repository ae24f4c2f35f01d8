import time

import numpy as np
import PIL.Image
import pytest

from delf.base import errors
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python.delg import measure_latency

_FEATURES = features.LocalFeatures(
  locations=np.zeros([3, 2]),
  scales=np.ones([3]),
  descriptors=np.ones([3, 8]),
  attention=np.ones([3]),
)


class _Counting:
  """Takes no time, and counts how often."""

  device = "CPU"

  def __init__(self, local=True):
    self.config = delf_config_pb2.DelfConfig(use_local_features=local)
    self.calls = 0

  def extract(self, image):
    self.calls += 1
    local = _FEATURES if self.config.use_local_features else None
    return features.ImageFeatures(local, np.ones([4]))


@pytest.fixture
def photos(tmp_path):
  paths = [str(tmp_path / f"{i}.png") for i in range(2)]
  for path in paths:
    PIL.Image.new("RGB", (30, 20)).save(path)
  return paths


@pytest.fixture
def clock(monkeypatch):
  """A clock of which each look takes a second."""
  seconds = iter(range(10_000))
  monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))


def test_each_image_counts_as_often_as_asked(photos, clock):
  extractor = _Counting()
  found = measure_latency.measure(
    photos, extractor, 5, binary_local_features=True
  )
  assert extractor.calls == 2 * (5 + 1)
  # From before the extraction over its end to the end of the bits.
  assert found.seconds == (2, 2)
  assert found.binary_seconds == (1, 1)
  assert found.mean == 2
  assert found.features == (3, 3)


def test_images_that_fail_are_named_and_do_not_count(photos, tmp_path):
  missing = str(tmp_path / "nowhere.png")
  found = measure_latency.measure([*photos, missing], _Counting(local=False), 1)
  assert len(found.seconds) == 2
  assert found.features == (0, 0)
  assert found.binary_seconds is None
  assert [failure.path for failure in found.failed] == [missing]


def test_bits_are_signs():
  descriptors = np.array([[0.1, -1, 0, 2, -3, -1, -1, 5, 0.5, -1]])
  packed = measure_latency.pack_bits(descriptors)
  np.testing.assert_array_equal(packed, [[0b10010001, 0b10000000]])


@pytest.mark.parametrize(
  ("local", "number", "repeats", "words"),
  [
    (True, 0, 1, "no images: at least one"),
    (True, 2, 0, "repeat"),
    (False, 2, 1, "use_local_features"),
  ],
)
def test_what_cannot_be_measured(photos, local, number, repeats, words):
  with pytest.raises(errors.InputError, match=words):
    measure_latency.measure(photos[:number], _Counting(local), repeats, True)
