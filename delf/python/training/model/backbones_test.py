"""Backbones by name, and the package's lazy names."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from delf.python import errors, training
from delf.python.training import model as model_package
from delf.python.training.model import backbones, delf_model, layer_tree


def test_names():
  assert backbones.names() == ["compact", "resnet101", "resnet50"]
  with pytest.raises(errors.InputError, match="one of the backbones"):
    backbones.make("vgg16")


@pytest.mark.parametrize(
  "name, options",
  [("compact", {}), ("resnet50", {"pooling": "avg"})],
)
def test_a_backbone_keeps_what_it_promises(name, options):
  backbone = backbones.make(name, **options)
  assert backbone.name == "backbone"
  before = len(layer_tree.variables_by_path(backbone))
  images = np.random.default_rng(0).standard_normal((2, 65, 97, 3))
  images = images.astype(np.float32)
  blocks = {}
  descriptor = backbone.build_call(images, False, blocks)
  assert len(layer_tree.variables_by_path(backbone)) == before > 0
  assert descriptor.shape == (2, backbone.global_channels)
  stride = backbone.receptive_stride
  for size, pixels in zip(blocks["block3"].shape[1:3], (65, 97), strict=True):
    assert abs(size - pixels / stride) <= 1
  assert blocks["block3"].shape[-1] == backbone.local_channels
  # Boxes around pixels that are the stride apart, from the first one on.
  assert backbone.receptive_field == 2 * backbone.receptive_padding + 1


def test_a_backbone_that_is_ready():
  backbone = backbones.make("compact")
  model = delf_model.Delf(backbone=backbone)
  assert model.backbone is backbone
  images = keras.ops.ones((1, 64, 64, 3))
  outputs = model.build_call(images, training=False)
  assert outputs[0].shape == (1, backbone.global_channels)
  assert outputs[2].shape[-1] == backbone.local_channels


def test_the_package_loads_its_modules_when_they_are_used():
  code = """
import sys
from delf.python import training
model = training.model
assert {"delf_model", "delg_model", "export_model_utils", "resnet50"} <= set(
  dir(model))
assert "keras" not in sys.modules and "tensorflow" not in sys.modules
"""
  subprocess.run([sys.executable, "-c", code], check=True)
  assert training.model is model_package
  assert model_package.delf_model is delf_model
  assert model_package.resnet50.ResNet50.__name__ == "ResNet50"
  with pytest.raises(AttributeError, match="nothing"):
    _ = model_package.nothing
