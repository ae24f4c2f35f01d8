import numpy as np
import pytest

from delf.protos import delf_config_pb2
from delf.python.pipelines import batching, prefetch, problems


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
    yield prefetch.Decoded(i, image=np.full([*shape, 3], value, np.uint8))


def _run(extractor, stream, limit):
  return list(
    batching.BatchExtractor(extractor, lambda shape: limit).run(stream)
  )


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
  stream = [prefetch.Decoded("a", error=error), *_stream([(4, 4)] * 2)]
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
  assert all(problems.is_out_of_memory(error) for _, error in found)


def test_tensorflow_out_of_memory_is_told():
  tf = pytest.importorskip("tensorflow")
  error = tf.errors.ResourceExhaustedError(None, None, "OOM")
  assert problems.is_out_of_memory(error)
  assert not problems.is_out_of_memory(ValueError())


def test_memory_limit():
  config = delf_config_pb2.DelfConfig(image_scales=[0.5, 2.0])
  assert batching.memory_limit(config, "CPU")((100, 100)) == 1
  assert batching.memory_limit(config, "CPU", batch_size=4)((100, 100)) == 4
  gpu = batching.memory_limit(config, "GPU:0")
  assert gpu((100, 100)) > 1
  assert gpu((5000, 5000)) <= 1
  # Scaled down first, the same image takes less.
  config.max_image_size = 500
  assert batching.memory_limit(config, "GPU:0")((5000, 5000)) > 1
  # A square of it has more pixels, in the pyramid too.
  config.max_image_size = 1000
  flat = batching.memory_limit(config, "GPU:0")((100, 1000))
  config.use_square_images = True
  assert batching.memory_limit(config, "GPU:0")((100, 1000)) < flat
  small = batching.memory_limit(config, "GPU:0", batch_size=64, budget=1)
  assert small((100, 100)) < 1
