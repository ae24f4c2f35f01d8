import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf.base import errors
from delf.networks import backbones, model_checkpoints
from delf.python.datasets import utils
from delf.python.training.model import global_model

_SIZES = {
  "VGG16": 512,
  "VGG19": 512,
  "ResNet50": 2048,
  "ResNet101": 2048,
  "ResNet101V2": 2048,
  "ResNet152": 2048,
  "DenseNet121": 1024,
  "DenseNet169": 1664,
  "DenseNet201": 1920,
  "EfficientNetB5": 2048,
  "EfficientNetB7": 2560,
}
# The rest of these take seconds to build; their tables are the same.
_BUILT = ("VGG16", "ResNet50")


@pytest.fixture(scope="module")
def net():
  keras.utils.set_random_seed(0)
  return global_model.GlobalFeatureNet("VGG16", "gem", pretrained=False)


def _images(height=40, width=32, number=1):
  random = np.random.default_rng(height)
  pixels = random.integers(0, 256, [number, height, width, 3])
  return pixels.astype(np.float32) - 117


def test_sizes_of_descriptors():
  found = {k: size for k, (size, _) in global_model.ARCHITECTURES.items()}
  assert found == _SIZES


@pytest.mark.parametrize("architecture", _BUILT)
def test_descriptors_have_unit_length(architecture):
  net = global_model.GlobalFeatureNet(
    architecture, "spoc", whitening=True, pretrained=False
  )
  found = net(_images(number=2))
  assert found.shape == (2, _SIZES[architecture])
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
  assert net.meta == {
    "architecture": architecture,
    "pooling": "spoc",
    "whitening": True,
    "outputdim": _SIZES[architecture],
  }
  assert all(str(value) in net.meta_repr() for value in net.meta.values())


def test_batch_normalisation_is_frozen():
  net = global_model.GlobalFeatureNet("ResNet50", pretrained=False)
  norms = [
    layer
    for layer in net.feature_extractor.layers
    if isinstance(layer, keras.layers.BatchNormalization)
  ]
  assert norms
  trainable = {id(v) for v in net.trainable_variables}
  assert not any(id(v) in trainable for norm in norms for v in norm.weights)
  images = _images()
  before = [np.array(w) for w in norms[0].get_weights()]
  np.testing.assert_array_equal(net(images, training=True), net(images))
  np.testing.assert_array_equal(before, norms[0].get_weights())


@pytest.mark.parametrize(
  ("mode", "trained_on"),
  [
    ("caffe", backbones.CAFFE),
    ("torch", backbones.TORCH),
    ("tf", backbones.TF),
  ],
)
def test_networks_get_what_they_were_trained_on(net, mode, trained_on):
  pixels = np.random.default_rng(1).integers(0, 256, [1, 33, 34, 3])
  pixels = pixels.astype(np.float32)
  expected = keras.applications.imagenet_utils.preprocess_input(
    pixels.copy(), mode=mode
  )
  seen = []
  stub = type("Stub", (), {})()
  stub._trained_on, stub.whiten = trained_on, None
  stub.feature_extractor = lambda x, training: seen.append(np.asarray(x))
  stub.pool = stub.normalize = lambda x: x
  loaded = pixels[..., ::-1] - np.float32(utils.MEAN_BGR)
  global_model.GlobalFeatureNet.call(stub, loaded)
  np.testing.assert_allclose(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_graph_gives_the_same_for_all_sizes(net):
  for height, width in ((40, 32), (33, 50)):
    images = _images(height, width)
    np.testing.assert_allclose(net.describe(images), net(images), atol=1e-5)


def test_whitening_layer_begins_as_none(net):
  white = global_model.GlobalFeatureNet(
    "VGG16", "gem", whitening=True, pretrained=False
  )
  white.feature_extractor.set_weights(net.feature_extractor.get_weights())
  np.testing.assert_allclose(white(_images()), net(_images()), atol=1e-5)
  assert len(white.trainable_variables) == len(net.trainable_variables) + 2


def test_weights_are_written_and_read(net, tmp_path):
  model_checkpoints.save_weights(net, tmp_path / "weights")
  other = global_model.GlobalFeatureNet("VGG16", "gem", pretrained=False)
  assert not np.array_equal(other(_images()), net(_images()))
  model_checkpoints.load_weights(other, tmp_path / "weights")
  np.testing.assert_array_equal(other(_images()), net(_images()))


def test_several_scales_are_a_generalised_mean(net):
  image = tf.constant(_images(80, 64))
  half = tf.image.resize(image, [40, 32])
  one, two = (np.asarray(net(each)[0]) for each in (image, half))
  for power in (1.0, 3.0):
    mean = ((one**power + two**power) / 2) ** (1 / power)
    found = global_model.extract_multi_scale_descriptor(
      net, image, [1.0, 0.5], power
    )
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_list_gives_a_column_for_each_image(net, tmp_path):
  paths = []
  for number in range(3):
    paths.append(str(tmp_path / f"{number}.png"))
    Image.fromarray(
      np.random.default_rng(number).integers(0, 256, [60, 80, 3], np.uint8)
    ).save(paths[-1])
  found = global_model.extract_global_descriptors_from_list(
    net, paths, 72, bounding_boxes=[None, (0, 0, 50, 50), None], print_freq=1
  )
  assert found.shape == (512, 3)
  expected = net(utils.default_loader(paths[1], 72, (0, 0, 50, 50))[None])[0]
  np.testing.assert_allclose(found[:, 1], expected, atol=1e-5)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    global_model.extract_global_descriptors_from_list(net, ["nowhere"], 36)
  with pytest.raises(errors.InputError, match="VGG16.* 15 x 20 pixels"):
    global_model.extract_global_descriptors_from_list(net, paths[:1], 20)


def test_what_cannot_be(net):
  with pytest.raises(errors.InputError, match="ResNet101.*'ResNet7'"):
    global_model.GlobalFeatureNet("ResNet7", pretrained=False)
  with pytest.raises(errors.InputError, match="mac, spoc, gem"):
    global_model.GlobalFeatureNet("VGG16", "max", pretrained=False)
  image = tf.constant(_images())
  for scales in ([], [0.0], [float("nan")]):
    with pytest.raises(errors.InputError, match="scales"):
      global_model.extract_multi_scale_descriptor(net, image, scales, 1.0)

  def negative(images):
    return tf.constant([[-0.6, 0.8]])

  with pytest.raises(errors.InputError, match="power"):
    global_model.extract_multi_scale_descriptor(negative, image, [1], 2.5)


def test_weights_of_imagenet_are_read_from_a_file(net, tmp_path, monkeypatch):
  folder = tmp_path / "networks"
  folder.mkdir()
  name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.weights.h5"
  net.feature_extractor.save_weights(folder / name)
  found = global_model.GlobalFeatureNet("VGG16", data_root=str(tmp_path))
  np.testing.assert_array_equal(found(_images()), net(_images()))
  (folder / name).write_bytes(b"no weights")
  with pytest.raises(errors.InputError, match="vgg16_weights") as caught:
    global_model.GlobalFeatureNet("VGG16", data_root=str(tmp_path))
  assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
  def offline(*arguments, weights, **options):
    raise Exception("URL fetch failure on https://storage.googleapis.com")

  monkeypatch.setattr(keras.applications, "VGG16", offline)
  with pytest.raises(errors.InputError, match="--pretrained=false"):
    global_model.GlobalFeatureNet("VGG16", data_root=str(tmp_path))
