import dataclasses
import threading

import numpy as np
import PIL.Image
import pytest

from delf.extraction import engine, regions
from delf.protos import delf_config_pb2
from delf.python import utils


class _Mean:
  """Extracts the mean colour; keeps the sizes of its batches."""

  def __init__(self, most=None, error=MemoryError):
    self.sizes = []
    self._most = most
    self._error = error

  def extract(self, image):
    self.sizes.append(1)
    if image[0, 0, 0] == 99:
      raise ValueError("bad image")
    return image.mean(axis=(0, 1))

  def extract_batch(self, images):
    if self._most and len(images) > self._most:
      raise self._error
    if any(image[0, 0, 0] == 99 for image in images):
      raise ValueError("bad image")
    self.sizes.append(len(images))
    return list(np.mean(images, axis=(1, 2)))


def _stream(shapes, values=None):
  values = values or range(len(shapes))
  for i, (shape, value) in enumerate(zip(shapes, values, strict=True)):
    yield engine.Decoded(i, image=np.full([*shape, 3], value, np.uint8))


def _run(extractor, stream, limit):
  return list(engine.BatchExtractor(extractor, lambda shape: limit).run(stream))


def test_one_by_one_keeps_the_order():
  shapes = [(4, 4), (5, 5), (4, 4)]
  found = _run(_Mean(), _stream(shapes), 1)
  assert [decoded.job for decoded, _ in found] == [0, 1, 2]
  np.testing.assert_array_equal([r[0] for _, r in found], [0, 1, 2])


def test_images_of_one_size_join_the_first_of_them():
  shapes = [(4, 4), (5, 5), (4, 4), (4, 4), (5, 5), (4, 4)]
  extractor = _Mean()
  found = _run(extractor, _stream(shapes), 3)
  assert [decoded.job for decoded, _ in found] == [0, 2, 3, 1, 4, 5]
  assert extractor.sizes == [3, 2, 1]
  for decoded, result in found:
    assert result[0] == decoded.job


def test_failed_images_pass_through():
  error = OSError("cannot be read")
  stream = [engine.Decoded("a", error=error), *_stream([(4, 4)] * 2)]
  found = _run(_Mean(), stream, 4)
  assert found[0][1] is error
  assert len(found) == 3


def test_one_bad_image_does_not_take_its_batch_with_it():
  found = _run(_Mean(), _stream([(4, 4)] * 4, [0, 99, 2, 3]), 4)
  assert [isinstance(r, ValueError) for _, r in found] == [False, True] + [
    False
  ] * 2
  assert found[2][1][0] == 2


def test_out_of_memory_lowers_the_batch_for_good():
  extractor = _Mean(most=2)
  found = _run(extractor, _stream([(4, 4)] * 12), 8)
  assert [r[0] for _, r in found] == list(range(12))
  assert max(extractor.sizes) == 2


def test_out_of_memory_of_one_image_is_its_error():
  class Full(_Mean):
    def extract(self, image):
      raise MemoryError

  found = _run(Full(most=1), _stream([(4, 4)] * 3), 2)
  assert all(engine.is_out_of_memory(error) for _, error in found)


def test_tensorflow_out_of_memory_is_told():
  tf = pytest.importorskip("tensorflow")
  error = tf.errors.ResourceExhaustedError(None, None, "OOM")
  assert engine.is_out_of_memory(error)
  assert not engine.is_out_of_memory(ValueError())


def test_memory_limit():
  config = delf_config_pb2.DelfConfig(image_scales=[0.5, 2.0])
  assert engine.memory_limit(config, "CPU")((100, 100)) == 1
  assert engine.memory_limit(config, "CPU", batch_size=4)((100, 100)) == 4
  gpu = engine.memory_limit(config, "GPU:0")
  assert gpu((100, 100)) > 1
  assert gpu((5000, 5000)) <= 1
  # Scaled down first, the same image takes less.
  config.max_image_size = 500
  assert engine.memory_limit(config, "GPU:0")((5000, 5000)) > 1
  # A square of it has more pixels, in the pyramid too.
  config.max_image_size = 1000
  flat = engine.memory_limit(config, "GPU:0")((100, 1000))
  config.use_square_images = True
  assert engine.memory_limit(config, "GPU:0")((100, 1000)) < flat
  small = engine.memory_limit(config, "GPU:0", batch_size=64, budget=1)
  assert small((100, 100)) < 1


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


def _stream_side_by_side(number):
  for i in range(number):
    pixels = np.full([i + 1, 2, 3], i, np.uint8)
    yield engine.Decoded(i, image=pixels, resize_factor=1 + i % 2)


def test_results_come_in_order_and_errors_are_theirs():
  many = regions.ParallelExtractor(_Extractor(2), lambda shape: 8, 2)
  found = list(many.run(_stream_side_by_side(6)))
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
  many = regions.ParallelExtractor(_First(), lambda shape: 8, 2)
  found = [value for _, value in many.run(_stream_side_by_side(6))]
  assert found == [True, 1, 2, 3, 4, 5]


def test_no_more_at_once_than_fit_in_memory():
  extractor = _Extractor(1)
  many = regions.ParallelExtractor(extractor, lambda shape: 2, 4)
  assert len(list(many.run(_stream_side_by_side(12)))) == 12
  assert extractor.most <= 2


def test_what_could_not_be_decoded_passes_through():
  error = OSError("gone")
  many = regions.ParallelExtractor(_Extractor(1), lambda shape: 8, 2)
  ((_, found),) = many.run([engine.Decoded(0, error=error)])
  assert found is error


@pytest.mark.parametrize(
  ("device", "kind"),
  [
    ("CPU", regions.ParallelExtractor),
    ("GPU:0 (name)", engine.BatchExtractor),
  ],
)
def test_a_gpu_takes_batches(device, kind):
  config = delf_config_pb2.DelfConfig(image_scales=[1.0])
  assert isinstance(
    regions.make_batches(_Extractor(1), config, device, 2), kind
  )


@dataclasses.dataclass(frozen=True)
class _Job:
  path: str


@pytest.fixture
def jobs(tmp_path):
  """Twelve images, each of its own grey; the fourth is no image."""
  made = []
  for i in range(12):
    path = tmp_path / f"{i}.png"
    PIL.Image.new("RGB", (40, 30), (i, i, i)).save(path)
    if i == 3:
      path.write_bytes(b"no image")
    made.append(_Job(str(path)))
  return made


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_kept_and_errors_stay_with_their_image(jobs, workers):
  found = list(engine.decode_ahead(jobs, utils.RgbLoader, workers))
  assert [d.job for d in found] == jobs
  for i, decoded in enumerate(found):
    if i == 3:
      assert decoded.image is None
      assert "3.png" in str(decoded.error)
    else:
      assert decoded.image.shape == (30, 40, 3)
      assert np.all(decoded.image == i)


def test_decodes_while_the_caller_works(jobs):
  second = threading.Event()

  def load(path):
    if path == jobs[1].path:
      second.set()
    return utils.RgbLoader(path)

  stream = engine.decode_ahead(jobs[:2], load)
  next(stream)
  # Without a thread nobody would decode the second image during this wait.
  assert second.wait(timeout=30)
  stream.close()


def test_pixels_that_are_held_are_bounded(jobs):
  started = []
  release = threading.Event()

  def load(path):
    started.append(path)
    if len(started) > 1:
      release.wait(30)
    return utils.RgbLoader(path)

  stream = engine.decode_ahead(jobs, load, workers=6, pixels_ahead=2 * 40 * 30)
  next(stream)
  # Two were begun with the first; the next may start once it is fetched.
  assert len(started) <= 2
  release.set()
  assert len(list(stream)) == len(jobs) - 1


def test_sizes_over_a_limit_of_pillow_are_known(jobs, monkeypatch):
  """Its limit is of the whole process; ours is in `utils`."""
  monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
  third = threading.Event()

  def load(path):
    if path == jobs[2].path:
      third.set()
    return np.zeros([30, 40, 3], np.uint8)

  stream = engine.decode_ahead(
    jobs[:3], load, workers=3, pixels_ahead=3 * 40 * 30
  )
  next(stream)
  # Nobody asks for it yet: it is decoded as all three are in the bound.
  assert third.wait(timeout=30)
  stream.close()


def test_images_of_unknown_size_are_decoded_alone(jobs, monkeypatch):
  monkeypatch.setattr(utils, "MAX_PIXELS", 100)
  started = []

  def load(path):
    started.append(path)
    return np.zeros([30, 40, 3], np.uint8)

  stream = engine.decode_ahead(jobs, load, workers=3)
  for i, _ in enumerate(stream, 1):
    assert len(started) == i


def test_an_image_over_the_bound_is_decoded_alone(jobs):
  found = list(engine.decode_ahead(jobs, utils.RgbLoader, 2, pixels_ahead=1))
  assert [d.job for d in found] == jobs


def test_closing_early_ends_the_threads(jobs):
  stream = engine.decode_ahead(jobs, utils.RgbLoader, workers=2)
  next(stream)
  stream.close()
  names = [thread.name for thread in threading.enumerate()]
  assert not [name for name in names if name.startswith("decode")]
