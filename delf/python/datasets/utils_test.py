import ast

import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.python.datasets import utils
from tests.stand_ins import npz

# The original returns the image as it was, whatever `preprocess` says; here
# `preprocess` has its effect, so those goldens hold for the image before it.
_OVERRIDDEN = {0, 2, 4}
_MEAN_BGR = np.float32([103.939, 116.779, 123.68])


@pytest.fixture
def photo(tmp_path):
  pixels = np.random.default_rng(5).integers(0, 256, [64, 48, 3])
  Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photo.png")
  return tmp_path / "photo.png"


def test_goldens(goldens, tmp_path):
  golden = npz.read(goldens / "fe_pil_imagenet_loader.npz")
  path = tmp_path / "image.png"
  Image.fromarray(golden["in_image"]).save(path)
  for index in range(5):
    size, box, preprocess = map(ast.literal_eval, golden[f"args{index}"])
    expected = golden[f"out{index}"]
    assert preprocess == (index in _OVERRIDDEN)
    for load in (utils.pil_imagenet_loader, utils.default_loader):
      raw = load(path, size, box, preprocess=False)
      assert raw.dtype == np.uint8
      np.testing.assert_array_equal(raw, expected)
      ready = load(path, size, box)
      assert ready.dtype == np.float32
      np.testing.assert_allclose(
        ready[..., ::-1], expected - _MEAN_BGR[::-1], atol=1e-4
      )


def test_preprocessing_is_that_of_keras(photo):
  from tensorflow.keras.applications import imagenet_utils

  raw = utils.default_loader(photo, 32, preprocess=False)
  expected = imagenet_utils.preprocess_input(
    raw.astype(np.float32), mode="caffe"
  )
  np.testing.assert_allclose(utils.default_loader(photo, 32), expected)


def test_without_a_size_the_image_keeps_its_own(photo):
  assert utils.default_loader(photo, None).shape == (64, 48, 3)
  box = (0, 0, 10, 20)
  assert utils.default_loader(photo, None, box).shape == (20, 10, 3)


@pytest.mark.parametrize(
  "box", [(10, 10, 10, 20), (20, 0, 10, 10), (-1, 0, 5, 5), (0, 0, 49, 5)]
)
def test_boxes_that_are_not_in_the_image(box, photo):
  with pytest.raises(
    errors.InputError, match="photo.png: the box .* is not inside the image, "
  ):
    utils.pil_imagenet_loader(photo, 32, box)
