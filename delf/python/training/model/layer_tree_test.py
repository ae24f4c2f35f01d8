"""Paths of layers and variables."""

import keras
import pytest

from delf.python.training.model import layer_tree


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
  paths = layer_tree.variables_by_path(model)
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
    layer_tree.variables_by_path(model)
