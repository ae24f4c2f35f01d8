"""Attention, autoencoder and DELF."""

import inspect

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.networks import heads
from delf.python.training.model import delf_model, resnet50
from tests.stand_ins import golden_weights


@pytest.fixture(scope="module")
def golden(goldens):
  with np.load(goldens / "train_attention.npz", allow_pickle=False) as file:
    return dict(file)


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.standard_normal((2, 70, 90, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def plain():
  return delf_model.Delf(backbone="compact")


@pytest.fixture(scope="module")
def coding():
  return delf_model.Delf(backbone="compact", use_dim_reduction=True)


def _with_weights(model, prefix, shape):
  model.build(shape)
  for layer in model.layers:
    for variable in layer.variables:
      name = f"{prefix}/{layer.name}/{variable.name}"
      variable.assign(golden_weights.make(name, tuple(variable.shape)))
  return model


def _equal(value, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5 * scale)


def test_attention(golden):
  model = delf_model.AttentionModel()
  _with_weights(model, "attention", golden["x"].shape)
  for prefix, options in (("", {"training": False}), ("train_", {})):
    outputs = model(golden["x"], **options)
    for key, value in zip(("feat", "prob", "score"), outputs, strict=True):
      _equal(value, golden[prefix + key])
  _equal(model.bn_conv1.moving_mean, golden["bn_moving_mean_after"])
  _equal(model.bn_conv1.moving_variance, golden["bn_moving_var_after"])
  assert model.bn_conv1.momentum == 0.99
  assert model.bn_conv1.epsilon == 1e-3


def test_attention_is_the_softplus_to_the_bit_and_so_is_its_gradient():
  scores = tf.constant([-200.0, -3.0, 0.0, 0.5, 19.9, 20.0, 20.1, 90.0, 1000.0])
  found = []
  for function in (heads._softplus, tf.math.softplus):
    with tf.GradientTape() as tape:
      tape.watch(scores)
      values = function(scores)
    found.append((values.numpy(), tape.gradient(values, scores).numpy()))
  np.testing.assert_array_equal(found[0][0], found[1][0])
  np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)


def test_high_attention_is_finite_in_tflite():
  litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the extra tflite is not installed"
  )
  function = tf.function(
    heads._softplus, input_signature=[tf.TensorSpec([4])]
  ).get_concrete_function()
  convert = tf.lite.TFLiteConverter.from_concrete_functions
  data = convert([function], tf.Module()).convert()
  runner = litert.Interpreter(model_content=data).get_signature_runner()
  scores = np.array([-3, 0, 90, 1000], np.float32)
  (name,) = runner.get_input_details()
  (values,) = runner(**{name: scores}).values()
  np.testing.assert_allclose(values, np.logaddexp(0, scores), rtol=1e-5)


def test_autoencoder(golden):
  model = delf_model.AutoencoderModel(128, 1024)
  _with_weights(model, "autoencoder", golden["x"].shape)
  expanded, reduced = model(golden["x"])
  assert expanded.shape == golden["x"].shape
  _equal(expanded[..., :64], golden["ae_expanded64"])
  _equal(reduced, golden["ae_reduced"])


def test_calls_train_by_default():
  for function in (
    delf_model.AttentionModel.call,
    delf_model.Delf.call,
    delf_model.Delf.build_call,
    delf_model.Delf.global_and_local_forward_pass,
    resnet50.ResNet50.call,
    resnet50.ResNet50.build_call,
  ):
    assert inspect.signature(function).parameters["training"].default is True


def test_calling_a_model_trains_by_default(plain, images):
  model = plain
  before = model.attention.bn_conv1.moving_mean.numpy()
  model(images, training=False)
  np.testing.assert_array_equal(model.attention.bn_conv1.moving_mean, before)
  model(images)
  assert np.any(model.attention.bn_conv1.moving_mean != before)


@pytest.mark.parametrize("name", ["plain", "coding"])
def test_parts_agree_with_the_whole(request, images, name):
  model = request.getfixturevalue(name)
  descriptor, attention, features = model.build_call(images, training=False)
  for pair in (
    model(images, training=False),
    model.local_call(images, training=False),
  ):
    np.testing.assert_array_equal(pair[0], attention)
    np.testing.assert_array_equal(pair[1], features)
  np.testing.assert_array_equal(
    model.global_call(images, training=False), descriptor
  )
  channels = 128 if name == "coding" else model.backbone.local_channels
  assert features.shape[-1] == channels
  assert attention.shape == (*features.shape[:3], 1)


def test_local_losses_leave_the_backbone_alone(coding, images):
  model = coding
  model.init_classifiers(5)
  with tf.GradientTape(persistent=True) as tape:
    _, feature, _, _, expanded, _ = model.global_and_local_forward_pass(images)
    loss = tf.reduce_sum(model.attn_classification(feature)) + tf.reduce_sum(
      expanded
    )
  backbone = [v.value for v in model.backbone.trainable_variables]
  assert all(g is None for g in tape.gradient(loss, backbone))
  for weights in (
    model.attn_trainable_weights,
    model.autoencoder_trainable_weights,
  ):
    gradients = tape.gradient(loss, [v.value for v in weights])
    assert weights and all(g is not None for g in gradients)


def test_autoencoder_is_as_wide_as_the_local_features(coding):
  channels = coding.backbone.local_channels
  assert coding.autoencoder.conv2.filters == channels
  model = delf_model.Delf(
    backbone=coding.backbone, use_dim_reduction=True, dim_expand_channels=80
  )
  assert model.autoencoder.conv2.filters == 80


def test_classifiers_are_made_once_at_any_time(plain, images):
  model = plain
  model(images, training=False)
  model.init_classifiers(6)
  names = [layer.name for layer in model.layers]
  assert names[-2:] == ["desc_fc", "att_fc"]
  with pytest.raises(RuntimeError):
    model.init_classifiers(7)


def test_wrong_backbone():
  with pytest.raises(errors.InputError, match="'resnet18'.*compact"):
    delf_model.Delf(backbone="resnet18")
