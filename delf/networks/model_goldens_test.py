"""DELF and DELG as the original computed them, with weights by a recipe."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from delf.networks import backbones
from delf.python.training.model import delf_model, delg_model
from tests.stand_ins import golden_weights

_IMAGES = ("image64", "image65", "image96")
_BLOCKS = ("block0", "block0mp", "block1", "block2", "block3", "block4")
_CLASSES = 7
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"

# Model -> its name in the inventory of variables, made with 14951 classes.
_INVENTORY = {
  "DELF_s32_noae_avg": (
    "Delf(block3_strides=True,name=DELF) + init_classifiers(14951)"
  ),
  "DELF_s16_ae_max": "Delf(use_dim_reduction=True)",
  "DELG_s32_ae_gem": "Delg(use_dim_reduction=True) + init_classifiers(14951)",
  "DELG_s16_noae_gem": "Delg(use_dim_reduction=False)",
}


def _make(name):
  if name == "DELF_s32_noae_avg":
    return delf_model.Delf(block3_strides=True)
  if name == "DELF_s16_ae_max":
    return delf_model.Delf(
      block3_strides=False, pooling="max", use_dim_reduction=True
    )
  if name == "DELG_s32_ae_gem":
    return delg_model.Delg(block3_strides=True, use_dim_reduction=True)
  return delg_model.Delg(block3_strides=False)


@pytest.fixture(scope="module")
def arrays(goldens):
  with np.load(goldens / "train_models.npz", allow_pickle=False) as file:
    return dict(file)


@pytest.fixture(scope="module")
def recorded(goldens):
  return json.loads((goldens / "train_meta.json").read_text())["models"]


@pytest.fixture(
  scope="module",
  params=tuple(_INVENTORY),
)
def named_model(request):
  model = _make(request.param)
  model.init_classifiers(_CLASSES)
  golden_weights.assign(model)
  return request.param, model


def _shape(recorded):
  return [_CLASSES if size == 14951 else size for size in recorded]


@pytest.mark.slow
def test_variables(named_model, goldens):
  name, model = named_model
  inventory = json.loads((goldens / "inventory_variables.json").read_text())
  golden = inventory[_INVENTORY[name]]
  variables = golden_weights.names(model)
  assert [
    (key, list(v.shape), v.dtype, v.trainable) for key, v in variables.items()
  ] == [
    (v["canonical"], _shape(v["shape"]), v["dtype"], v["trainable"])
    for v in golden["variables"]
  ]
  trainable = {key: v for key, v in variables.items() if v.trainable}
  assert list(trainable) == golden["trainable_order"]
  assert [id(v) for v in trainable.values()] == [
    id(v) for v in model.trainable_variables
  ]
  assert model.count_params() == sum(
    int(np.prod(_shape(v["shape"]))) for v in golden["variables"]
  )
  keys = {
    f"{path}{_SUFFIX}": [list(variable.shape), variable.dtype]
    for path, variable in backbones.variables_by_path(model).items()
  }
  recorded = dict(golden["save_weights_keys"])
  recorded.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
  assert keys == {
    key: [_shape(shape), dtype] for key, (shape, dtype) in recorded.items()
  }


def _check(value, golden):
  value = np.asarray(value, np.float64)
  tolerance = 1e-3 * golden["std"]
  assert list(value.shape) == golden["shape"]
  np.testing.assert_allclose(value.mean(), golden["mean"], atol=tolerance)
  np.testing.assert_allclose(value.std(), golden["std"], atol=tolerance)
  absmax = np.abs(value).max()
  np.testing.assert_allclose(absmax, golden["absmax"], rtol=1e-3)
  flat = value.ravel()
  np.testing.assert_allclose(flat[:64], golden["first64"], atol=tolerance)
  np.testing.assert_allclose(flat[-64:], golden["last64"], atol=tolerance)


@pytest.mark.parametrize("image", _IMAGES)
def test_inference(named_model, image, arrays, recorded):
  name, model = named_model
  golden_weights.assign(model)  # Training moves averages.
  golden = recorded[name][image]
  descriptor, _, attention, blocks, _, reduced = (
    model.global_and_local_forward_pass(arrays[image], training=False)
  )
  for block in _BLOCKS:
    _check(blocks[block], golden[block])
  features = blocks["block3"] if reduced is None else reduced
  for key, value in (
    ("global", descriptor),
    ("attn_prob", attention),
    ("features", features),
  ):
    _check(value, golden[key])
  for key, value in (
    ("global", descriptor),
    ("attn_prob", attention),
    ("features_ch0_32", features[..., :32]),
    ("block3_ch0_32", blocks["block3"][..., :32]),
    ("block4_ch0_32", blocks["block4"][..., :32]),
  ):
    expected = arrays[f"{name}|{image}|{key}"]
    tolerance = 1e-3 * expected.std()
    np.testing.assert_allclose(value, expected, atol=tolerance)


def _losses(model, images, labels):
  """Returns losses and logits of a training step."""
  prelogits, feature, _, blocks, expanded, _ = (
    model.global_and_local_forward_pass(images, training=True)
  )
  if isinstance(model, delg_model.Delg):
    desc_logits = model.desc_classification(prelogits, labels)
  else:
    desc_logits = model.desc_classification(prelogits)
  attn_logits = model.attn_classification(feature)
  entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  losses = {
    "desc_loss": entropy(labels, desc_logits),
    "attn_loss": entropy(labels, attn_logits),
    "recon_loss": 0.0,
  }
  if expanded is not None:
    losses["recon_loss"] = tf.reduce_mean(
      tf.square(tf.stop_gradient(blocks["block3"]) - expanded)
    )
  losses["total"] = (
    losses["desc_loss"] + losses["attn_loss"] + 10 * losses["recon_loss"]
  )
  return losses, desc_logits, attn_logits


@pytest.mark.slow
def test_training_step(named_model, arrays, recorded):
  name, model = named_model
  golden = recorded[name]["train_step_image96"]
  variables = golden_weights.names(model)
  with tf.GradientTape() as tape:
    losses, desc_logits, attn_logits = _losses(
      model, arrays["image96"], np.array(golden["labels"])
    )
  for key, loss in losses.items():
    np.testing.assert_allclose(loss, golden[key], rtol=1e-2, err_msg=key)
  for key, logits in (
    ("desc_logits", desc_logits),
    ("attn_logits", attn_logits),
  ):
    expected = np.array(golden[key])
    np.testing.assert_allclose(logits, expected, atol=1e-2 * expected.std())
  trainable = {k: v for k, v in variables.items() if v.trainable}
  gradients = tape.gradient(
    losses["total"], [v.value for v in trainable.values()]
  )
  np.testing.assert_allclose(
    tf.linalg.global_norm(gradients), golden["global_norm"], rtol=1e-2
  )
  norms = {
    key: float(tf.norm(gradient))
    for key, gradient in zip(trainable, gradients, strict=True)
  }
  assert list(norms) == list(golden["grad_norms"])
  # Biases before batch normalisation have no gradient but rounding.
  floor = 1e-6 * golden["global_norm"]
  for key, expected in golden["grad_norms"].items():
    np.testing.assert_allclose(
      norms[key], expected, rtol=1e-2, atol=floor, err_msg=key
    )
  np.testing.assert_allclose(
    [float(loss) for loss in model.losses],
    golden["regularization_losses_not_used"],
    rtol=1e-5,
  )
