import dataclasses
import threading

import numpy as np
import PIL.Image
import pytest

from delf.python import utils
from delf.python.pipelines import prefetch


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
  found = list(prefetch.decode_ahead(jobs, utils.RgbLoader, workers))
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

  stream = prefetch.decode_ahead(jobs[:2], load)
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

  stream = prefetch.decode_ahead(
    jobs, load, workers=6, pixels_ahead=2 * 40 * 30
  )
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

  stream = prefetch.decode_ahead(
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

  stream = prefetch.decode_ahead(jobs, load, workers=3)
  for i, _ in enumerate(stream, 1):
    assert len(started) == i


def test_an_image_over_the_bound_is_decoded_alone(jobs):
  found = list(prefetch.decode_ahead(jobs, utils.RgbLoader, 2, pixels_ahead=1))
  assert [d.job for d in found] == jobs


def test_closing_early_ends_the_threads(jobs):
  stream = prefetch.decode_ahead(jobs, utils.RgbLoader, workers=2)
  next(stream)
  stream.close()
  names = [thread.name for thread in threading.enumerate()]
  assert not [name for name in names if name.startswith("decode")]
