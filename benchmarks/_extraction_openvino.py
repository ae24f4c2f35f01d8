"""The network of extraction in OpenVINO, compared with TensorFlow."""

import contextlib
import tempfile

import numpy as np
import tensorflow as tf

from delf.networks import (
  compact,
  exporting,
  signatures,
  tensorflow_ops,
)
from delf.python import feature_extractor

_OUTPUTS = ("descriptor", "attention", "features")


def find():
  """Returns the package, or ends the program with one line."""
  try:
    import openvino
  except ImportError:
    raise SystemExit(
      "--openvino: expected OpenVINO, found none; pip install 'delf[openvino]'"
    ) from None
  return openvino


@contextlib.contextmanager
def ways(model, image, scales):
  """Gives functions that run the network over the pyramid of an image.

  Args:
    model: As `_extraction_ways.make_model` makes it.
    image: [H, W, 3] uint8.
    scales: list of float.

  Yields:
    {"TensorFlow": function, "OpenVINO": function}, both without arguments and
    in float32; each returns a list of arrays, three for each scale.
  """
  openvino = find()
  pixels = feature_extractor.NormalizePixelValues(image)[tf.newaxis]
  levels = [tensorflow_ops.resize(pixels, scale) for scale in scales]
  arrays = [level.numpy() for level in levels]
  with tempfile.TemporaryDirectory() as folder:
    with compact.folded(model):
      function = _named(signatures.Network(model).full)
      exporting.save({"serving_default": function}, folder)
    loaded = tf.saved_model.load(folder)
    call = loaded.signatures["serving_default"]
    converted = openvino.convert_model(folder, input=[1, -1, -1, 3])
    # Some processors would be given bfloat16.
    compiled = openvino.compile_model(
      converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    yield {
      "TensorFlow": lambda: [
        found[name].numpy() for found in map(call, levels) for name in _OUTPUTS
      ],
      "OpenVINO": lambda: [
        np.array(found[name])
        for found in map(compiled, arrays)
        for name in _OUTPUTS
      ],
    }


def largest_difference(arrays, others):
  """Returns the largest difference, relative to the largest value of its array.

  Args:
    arrays: list of arrays.
    others: list of arrays of the same shapes.
  """
  return max(
    float(np.abs(a - b).max() / np.abs(a).max())
    for a, b in zip(arrays, others, strict=True)
  )


def _named(function):
  """Returns a concrete function whose outputs have names."""
  images = tf.TensorSpec([None, None, None, 3], tf.float32, "images")

  @tf.function(input_signature=[images])
  def call(images):
    return dict(zip(_OUTPUTS, function(images), strict=True))

  return call.get_concrete_function()
