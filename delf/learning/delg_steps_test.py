"""One step: losses as the original computed them, and what may be asked."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.learning import delg_settings, delg_steps, loop
from delf.networks import backbones
from tests.stand_ins import golden_weights, tiny_training
from tests.stand_ins.tiny_training import tiny  # noqa: F401

_GIVEN = delg_settings.Settings(
  "nowhere",
  delg_settings.Data(num_classes=3, batch_size=4, image_size=65),
  delg_settings.Network(backbone="tiny", delg=True, embedding_layer_dim=6),
  delg_settings.Learning(max_iters=10),
  execution=delg_settings.Execution(eager=True),
)


def _stepper(given=_GIVEN, **network):
  keras.utils.set_random_seed(2)
  given = dataclasses.replace(
    given, network=dataclasses.replace(given.network, **network)
  )
  return delg_steps.Stepper(given, tf.distribute.get_strategy())


@pytest.fixture(scope="module")
def batch():
  return next(iter(tiny_training.NoiseBatches().training()))


def _values(stepper):
  paths = backbones.variables_by_path(stepper.model)
  return {path: variable.numpy() for path, variable in paths.items()}


@pytest.mark.slow
def test_losses_are_those_of_the_original(goldens):
  recorded = json.loads((goldens / "train_meta.json").read_text())["models"]
  golden = recorded["DELG_s32_ae_gem"]["train_step_image96"]
  with np.load(goldens / "train_models.npz", allow_pickle=False) as file:
    images = file["image96"]
  given = dataclasses.replace(
    _GIVEN,
    data=delg_settings.Data(num_classes=7, batch_size=len(images)),
    network=delg_settings.Network(delg=True),
  )
  stepper = delg_steps.Stepper(given, tf.distribute.get_strategy())
  golden_weights.assign(stepper.model)
  before = _values(stepper)
  labels = np.array(golden["labels"])
  metrics, outputs = stepper.train(tf.constant(images), labels, False)
  plain = metrics["loss/total"] - metrics["loss/regularization"]
  for value, key in (
    (metrics["loss/desc/crossentropy"], "desc_loss"),
    (metrics["loss/attn/crossentropy"], "attn_loss"),
    (metrics["loss/recon/mse"], "recon_loss"),
    (plain, "total"),
    (metrics["gradient_norm"], "global_norm"),
  ):
    assert value == pytest.approx(golden[key], rel=1e-2), key
  # The original declared them and left them out.
  declared = sum(golden["regularization_losses_not_used"])
  assert metrics["loss/regularization"] == pytest.approx(declared, rel=1e-4)
  logits = np.array(golden["desc_logits"])
  assert outputs().guesses["desc"].tolist() == logits.argmax(1).tolist()
  moved = [
    np.linalg.norm(value - before[name])
    for name, value in _values(stepper).items()
    if not name.endswith(("moving_mean", "moving_variance"))
  ]
  # The gradient is clipped to 10, and the first update is the rate times that.
  assert metrics["gradient_norm"] > 10
  assert np.linalg.norm(moved) == pytest.approx(0.01 * 10, rel=1e-3)


def test_without_an_autoencoder_nothing_is_reconstructed(batch):
  metrics, _ = _stepper(use_autoencoder=False).train(*batch, False)
  assert "loss/recon/mse" not in metrics
  parts = ("desc/crossentropy", "attn/crossentropy", "regularization")
  total = sum(metrics[f"loss/{name}"] for name in parts)
  assert metrics["loss/total"] == pytest.approx(total, rel=1e-5)


def test_steps_are_those_of_the_optimiser_of_keras(batch):
  stepper = _stepper()
  gradients = []
  apply = stepper.optimizer.apply

  def spy(given, rate, most):
    gradients.append([gradient.numpy() for gradient in given])
    return apply(given, rate, most)

  stepper.optimizer.apply = spy
  start = [v.numpy() for v in stepper.model.trainable_variables]
  for _ in range(3):
    metrics, _ = stepper.train(*batch, False)
  reference = [keras.Variable(value) for value in start]
  sgd = keras.optimizers.SGD(0.01, momentum=0.9, global_clipnorm=10.0)
  for step, given in enumerate(gradients):
    sgd.learning_rate.assign(0.01 * (1 - step / 10))
    sgd.apply_gradients(zip(given, reference, strict=True))
  for expected, variable in zip(
    reference, stepper.model.trainable_variables, strict=True
  ):
    np.testing.assert_allclose(variable, expected, rtol=1e-5, atol=1e-6)
  assert metrics["learning_rate"] == pytest.approx(0.008)
  assert stepper.step == 3


def test_attention_does_not_train_the_backbone(batch):
  learning = delg_settings.Learning(max_iters=10)
  others = dataclasses.replace(
    learning, attention_loss_weight=0.0, reconstruction_loss_weight=0.0
  )
  found = []
  for each in (learning, others):
    given = dataclasses.replace(_GIVEN, learning=each)
    stepper = _stepper(given)
    gradients, *_ = stepper._gradients(*batch, tf.constant(False))
    paths = backbones.variables_by_path(stepper.model)
    names = {id(variable.value): path for path, variable in paths.items()}
    pairs = zip(stepper._trained, gradients, strict=True)
    found.append({names[id(v)]: gradient.numpy() for v, gradient in pairs})
  backbone = [path for path in found[0] if path.startswith("backbone")]
  assert len(backbone) == 6
  for path in backbone:
    np.testing.assert_array_equal(found[0][path], found[1][path], err_msg=path)
  assert any(not np.array_equal(found[0][p], found[1][p]) for p in found[0])


def test_validation_changes_nothing_and_has_no_margin(batch):
  stepper = _stepper(arcface_margin=2.0)
  before = _values(stepper)
  counts = stepper.validate(*batch)
  assert counts["number"] == 4
  after = _values(stepper)
  for path, value in before.items():
    np.testing.assert_array_equal(value, after[path], err_msg=path)
  plain = _stepper(arcface_margin=0.0)
  assert plain.validate(*batch) == counts


def test_frozen_normalisation_keeps_its_statistics(batch):
  for normalization, changes in (("frozen", False), ("batch", True)):
    stepper = _stepper(normalization=normalization)
    stepper.train(*batch, False)
    mean = stepper.model.backbone.norm.moving_mean.numpy()
    assert bool(mean.any()) is changes


def test_lower_precision_has_whole_weights_and_near_losses(batch):
  whole, _ = _stepper().train(*batch, False)
  stepper = _stepper(precision="mixed_bfloat16")
  metrics, _ = stepper.train(*batch, False)
  assert stepper.model.backbone.convolution.compute_dtype == "bfloat16"
  assert {v.dtype for v in stepper.model.variables} == {"float32"}
  assert keras.config.dtype_policy().name == "float32"
  name = "loss/attn/crossentropy"
  assert metrics[name] != whole[name]
  assert metrics[name] == pytest.approx(whole[name], rel=0.02)


@pytest.mark.slow
def test_xla_gives_the_same(batch):
  plain, _ = _stepper().train(*batch, True)
  given = dataclasses.replace(
    _GIVEN, execution=delg_settings.Execution(xla=True)
  )
  metrics, _ = _stepper(given).train(*batch, True)
  assert metrics == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize(
  "step, warm_up, expected",
  [(0, 0, 1.0), (25, 0, 0.75), (100, 0, 0.0), (200, 0, 0.0), (0, 50, 0.02),
   (24, 50, 0.38), (50, 50, 0.5)],
)  # fmt: skip
def test_rate(step, warm_up, expected):
  rate = loop.linear_rate(1.0, step, 100, warm_up)
  assert float(rate) == pytest.approx(expected)


@pytest.mark.parametrize(
  "group, change, words",
  [
    ("data", {"batch_size": 0}, "--batch_size must be 1 or more, not 0"),
    (
      "data",
      {"num_classes": 2.5},
      "--num_classes must be a whole number, not 2.5",
    ),
    (
      "learning",
      {"initial_lr": float("nan")},
      "--initial_lr must be 0.0 or more, not nan",
    ),
    ("network", {"precision": "int4"}, "'int4'"),
    ("network", {"normalization": "none"}, "'none'"),
  ],
)
def test_settings_that_cannot_be(group, change, words):
  changed = dataclasses.replace(getattr(_GIVEN, group), **change)
  given = dataclasses.replace(_GIVEN, **{group: changed})
  with pytest.raises(errors.InputError, match=words):
    given.check()


@pytest.mark.parametrize("name", ["GPU:7", "0", "U:0", "", "all"])
def test_devices_that_are_not_there(name):
  with pytest.raises(
    errors.InputError, match=f"{name.upper()!r}: .* of CPU:0, each once"
  ):
    delg_steps.strategy(delg_settings.Execution(devices=(name,)))


def test_devices_by_their_names():
  for name in ("CPU:0", "/cpu:0", "/device:CPU:0"):
    strategy = delg_steps.strategy(delg_settings.Execution(devices=(name,)))
    assert strategy.num_replicas_in_sync == 1
  with pytest.raises(errors.InputError, match="devices 'CPU:0': .* each once"):
    delg_steps.strategy(delg_settings.Execution(devices=("CPU:0", "cpu:0")))
