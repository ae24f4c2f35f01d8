"""Checkpoints: what is written is read, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.networks import backbones, model_checkpoints
from delf.python.training.model import delf_model, delg_model

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def small():
  """A whole model with few weights."""
  model = delg_model.Delg(backbone="compact", use_dim_reduction=True)
  model.init_classifiers(3)
  return model


def _snapshot(model):
  paths = backbones.variables_by_path(model)
  return {path: variable.numpy().copy() for path, variable in paths.items()}


def _same(first, second):
  assert first.keys() == second.keys()
  for path, value in first.items():
    np.testing.assert_array_equal(value, second[path], err_msg=path)


def _shuffle(model):
  rng = np.random.default_rng(5)
  for variable in model.variables:
    variable.assign(rng.uniform(size=variable.shape))


def test_optimisers_of_older_releases_are_no_part_of_the_model(small, tmp_path):
  kernel = small.attention.conv1.kernel.value
  optimizer = tf.compat.v1.train.MomentumOptimizer(0.1, 0.9)
  optimizer.apply_gradients([(tf.ones_like(kernel), kernel)])
  checkpoint = tf.train.Checkpoint(
    model=model_checkpoints.trackables(small), optimizer=optimizer
  )
  prefix = checkpoint.save(str(tmp_path / "ckpt"))
  keys = [key for key, _, _ in model_checkpoints.describe(prefix)]
  assert any(".OPTIMIZER_SLOT" in key for key in keys)
  assert model_checkpoints.load_weights(small, prefix).unused == []


def test_round_trip(small, tmp_path):
  _shuffle(small)
  before = _snapshot(small)
  model_checkpoints.save_weights(small, tmp_path / "weights")
  for variable in small.variables:
    variable.assign(np.zeros(variable.shape))
  for path in (tmp_path / "weights", tmp_path / "weights.index"):
    report = model_checkpoints.load_weights(small, path)
    assert report.loaded == sorted(before)
  _same(_snapshot(small), before)


def test_round_trip_of_a_training_run(small, tmp_path):
  checkpoint = tf.train.Checkpoint(
    model=model_checkpoints.trackables(small),
    optimizer={"iterations": tf.Variable(3)},
    epoch=tf.Variable(1),
  )
  manager = tf.train.CheckpointManager(checkpoint, str(tmp_path), 3)
  manager.save()
  _shuffle(small)
  before = _snapshot(small)
  manager.save()
  small.cosine_weights.assign(small.cosine_weights * 0)
  model_checkpoints.load_weights(small, tmp_path)
  _same(_snapshot(small), before)


def test_overwrites_and_leaves_nothing_behind(small, tmp_path):
  # Data that replace others are in two parts, those that replace these in one.
  for number in (1, 2, 1):
    model_checkpoints.save_weights(small, tmp_path / "weights")
    assert {path.name for path in tmp_path.iterdir()} == {
      "weights.index",
      *(f"weights.data-{i:05d}-of-{number:05d}" for i in range(number)),
    }


def test_other_models_are_refused(small, tmp_path):
  model_checkpoints.save_weights(small, tmp_path / "weights")
  other = delf_model.Delf(backbone=small.backbone)
  other.init_classifiers(4)
  before = _snapshot(other)
  with pytest.raises(errors.InputError) as caught:
    model_checkpoints.load_weights(other, tmp_path / "weights")
  text = str(caught.value)
  prefix = f"{tmp_path / 'weights'}: the weights do not match DELF: "
  assert text.startswith(prefix)
  missing, unused, shapes = text.removeprefix(prefix).split("; ")
  assert missing == (
    "missing: desc_classification/bias, desc_classification/kernel"
  )
  assert unused == (
    "unused: autoencoder/conv1/bias, autoencoder/conv1/kernel, "
    "autoencoder/conv2/bias, autoencoder/conv2/kernel, cosine_weights, "
    "scale_factor"
  )
  assert shapes.startswith("of another shape: attn_classification/bias [3], ")
  assert "attn_classification/kernel" in shapes
  _same(_snapshot(other), before)


@pytest.mark.parametrize("dtype", ["string", "complex64", "bool", "int32"])
def test_other_types_are_refused_before_anything_changes(
  small, tmp_path, dtype
):
  _shuffle(small)
  tree = model_checkpoints.trackables(small)
  kernel = small.attention.conv2.kernel
  values = tf.zeros(kernel.shape, tf.float32)
  values = (
    tf.strings.as_string(values)
    if dtype == "string"
    else tf.cast(values, dtype)
  )
  tree["attention"]["conv2"]["kernel"] = tf.Variable(values)
  prefix = tf.train.Checkpoint(**tree).write(str(tmp_path / "weights"))
  before = _snapshot(small)
  with pytest.raises(errors.InputError) as caught:
    model_checkpoints.load_weights(small, prefix)
  assert str(caught.value).endswith(
    f"of another type: attention/conv2/kernel {dtype}, not float32"
  )
  _same(_snapshot(small), before)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_floats_of_other_lengths_are_read(small, tmp_path, dtype):
  tree = model_checkpoints.trackables(small)
  bias = tf.cast(tf.range(512) / 4, dtype)
  tree["attention"]["conv1"]["bias"] = tf.Variable(bias)
  prefix = tf.train.Checkpoint(**tree).write(str(tmp_path / "weights"))
  model_checkpoints.load_weights(small, prefix)
  np.testing.assert_array_equal(
    small.attention.conv1.bias, tf.cast(bias, tf.float32)
  )


def test_many_names_are_cut_short(small, tmp_path):
  tf.train.Checkpoint(other=tf.Variable(1.0)).write(str(tmp_path / "weights"))
  with pytest.raises(errors.InputError, match=r"in all\); unused: ") as caught:
    model_checkpoints.load_weights(small, tmp_path / "weights")
  number = len(small.variables)
  assert f", ... ({number} in all); unused: other" in str(caught.value)
  assert len(str(caught.value)) < 600


def test_allowances_are_named(small, tmp_path):
  model_checkpoints.save_weights(small, tmp_path / "weights")
  headless = delf_model.Delf(backbone=small.backbone)
  with pytest.raises(errors.InputError, match="unused: autoencoder/conv1"):
    model_checkpoints.load_weights(
      headless, tmp_path / "weights", unused=model_checkpoints.TRAINING_ONLY
    )
  report = model_checkpoints.load_weights(
    headless,
    tmp_path / "weights",
    unused=(*model_checkpoints.TRAINING_ONLY, "autoencoder"),
  )
  assert "autoencoder/conv2/bias" in report.unused
  model_checkpoints.save_weights(headless, tmp_path / "headless")
  with pytest.raises(errors.InputError, match="missing: attn_classification"):
    model_checkpoints.load_weights(small, tmp_path / "headless")
  report = model_checkpoints.load_weights(
    small,
    tmp_path / "headless",
    missing=(*model_checkpoints.TRAINING_ONLY, "autoencoder"),
  )
  assert "scale_factor" in report.missing


def test_what_may_be_missing_and_unused_may_be_of_another_shape(tmp_path):
  models = [
    delf_model.Delf(backbone="compact", embedding_layer_dim=dimension)
    for dimension in (16, 8)
  ]
  model_checkpoints.save_weights(models[0], tmp_path / "weights")
  before = models[1].backbone.embedding_layer.kernel.numpy()
  both = ["backbone/embedding_layer"]
  with pytest.raises(errors.InputError, match="of another shape: backbone/emb"):
    model_checkpoints.load_weights(models[1], tmp_path / "weights", unused=both)
  report = model_checkpoints.load_weights(
    models[1], tmp_path / "weights", unused=both, missing=both
  )
  assert report.missing == [f"{both[0]}/bias", f"{both[0]}/kernel"]
  np.testing.assert_array_equal(
    models[1].backbone.embedding_layer.kernel, before
  )


def test_files_that_cannot_be_read(small, tmp_path):
  with pytest.raises(FileNotFoundError, match="none.index"):
    model_checkpoints.load_weights(small, tmp_path / "none")
  with pytest.raises(FileNotFoundError, match="no checkpoint in this folder"):
    model_checkpoints.load_weights(small, tmp_path)
  (tmp_path / "checkpoint").write_bytes(b"\xff\xfe\x00 no text")
  with pytest.raises(errors.InputError, match="not a whole"):
    model_checkpoints.load_weights(small, tmp_path)
  (tmp_path / "checkpoint").unlink()
  text = tmp_path / "text.index"
  text.write_text("These are no weights.")
  with pytest.raises(errors.InputError, match="text: this is not a whole"):
    model_checkpoints.describe(tmp_path / "text")
  prefix = model_checkpoints.save_weights(small, tmp_path / "weights")
  data = tmp_path / "weights.data-00000-of-00001"
  whole = data.read_bytes()
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 255
  before = _snapshot(small)
  for content in (whole[:-1], whole[: len(whole) // 2], b"", bytes(flipped)):
    data.write_bytes(content)
    with pytest.raises(errors.InputError, match="weights: this is not a whole"):
      model_checkpoints.load_weights(small, prefix)
  data.unlink()
  with pytest.raises(errors.InputError, match="weights: this is not a whole"):
    model_checkpoints.load_weights(small, prefix)
  _same(_snapshot(small), before)


def test_describe(small, tmp_path):
  model_checkpoints.save_weights(small, tmp_path / "weights")
  held = model_checkpoints.describe(tmp_path / "weights")
  paths = backbones.variables_by_path(small)
  assert [key for key, _, _ in held] == sorted(f"{p}{_SUFFIX}" for p in paths)
  shape = tuple(small.cosine_weights.shape)
  assert (f"cosine_weights{_SUFFIX}", shape, "float32") in held
  assert (f"scale_factor{_SUFFIX}", (), "float32") in held


class _Model(keras.Model):
  """Layers in every kind of place that Keras follows."""

  def __init__(self):
    super().__init__(name="model")
    self.first = self._layer("a")
    self.again = self.first
    self.listed = [self._layer("b"), self._layer("c")]
    self.named = {"d": self._layer("d")}
    self._hidden = self._layer("e")
    self.sequence = keras.Sequential(
      [keras.Input((2,)), keras.layers.Dense(2, name="f", use_bias=False)]
    )
    self.own = self.add_weight(shape=(2,), name="own")

  @staticmethod
  def _layer(name):
    layer = keras.layers.Dense(2, name=name, use_bias=False)
    layer.build((None, 2))
    return layer

  def build(self, input_shape):
    pass


def test_every_variable_has_a_path():
  model = _Model()
  paths = backbones.variables_by_path(model)
  assert sorted(paths) == [
    "e/kernel",
    "first/kernel",
    "listed/0/kernel",
    "listed/1/kernel",
    "named/d/kernel",
    "own",
    "sequence/f/kernel",
  ]
  assert {id(v) for v in paths.values()} == {id(v) for v in model.weights}


def test_two_variables_of_one_path():
  model = _Model()
  model.twins = [model.add_weight(shape=(), name="same") for _ in range(2)]
  with pytest.raises(RuntimeError, match="same"):
    backbones.variables_by_path(model)
