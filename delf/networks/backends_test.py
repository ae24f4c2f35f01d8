"""Layers and models do without TensorFlow."""

import ast
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

_MODULES = (
  "delf.python.normalization_layers.normalization",
  "delf.python.pooling_layers.pooling",
  "delf.networks.backbones",
  "delf.networks.compact",
  "delf.python.training.model.delf_model",
  "delf.python.training.model.delg_model",
  "delf.networks.heads",
  "delf.python.training.model.resnet50",
)

_ON_JAX = """
import sys
import jax
import keras
import numpy as np
from delf.python.pooling_layers import pooling
from delf.python.training.model import delg_model
from tests.stand_ins import golden_weights

assert keras.backend.backend() == "jax"
model = delg_model.Delg(use_dim_reduction=True)
model.init_classifiers(7)
golden_weights.assign(model)
with np.load(sys.argv[1], allow_pickle=False) as golden:
  images = golden["image64"]
  # Compiled as a whole: one by one the operations take a minute.
  outputs = jax.jit(lambda x: model.build_call(x, training=False))(images)
  for output, key in zip(
    (outputs[0], outputs[1], outputs[2][..., :32]),
    ("global", "attn_prob", "features_ch0_32"),
  ):
    expected = golden[f"DELG_s32_ae_gem|image64|{key}"]
    tolerance = 1e-3 * expected.std()
    np.testing.assert_allclose(output, expected, atol=tolerance)
logits = model.desc_classification(outputs[0], np.array([3, 5]))
assert logits.shape == (2, 7)
assert pooling.GeMPooling2D()(images).shape == (2, 32, 32, 3)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.parametrize("name", _MODULES)
def test_modules_import_no_tensorflow(name):
  path = pathlib.Path(importlib.util.find_spec(name).origin)
  imported = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      imported |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      imported.add((node.module or "").split(".")[0])
  assert not imported & {"tensorflow", "tf_keras", "tf_slim"}


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
def test_goldens_on_jax(goldens):
  root = pathlib.Path(__file__).parents[2]
  paths = [str(root), os.environ.get("PYTHONPATH", "")]
  environment = {
    "KERAS_BACKEND": "jax",
    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
  }
  subprocess.run(
    [sys.executable, "-c", _ON_JAX, goldens / "train_models.npz"],
    cwd=root,
    env=os.environ | environment,
    check=True,
  )
