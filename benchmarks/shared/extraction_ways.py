"""Ways to extract that the benchmark of extraction compares with."""

import contextlib
import tempfile
import unittest.mock

import numpy as np
import tensorflow as tf

from delf.networks import compact, exporting, signatures, tensorflow_ops
from delf.python import feature_extractor
from delf.python.training.model import delg_model

MOST_FEATURES = 1000
_OUTPUTS = ("descriptor", "attention", "features")  # Of the network.


def make_model():
  """Return DELG on ResNet-50 with random weights."""
  return delg_model.Delg(block3_strides=False, use_dim_reduction=True)


def straightforward(model, scales):
  """Return a function of an image, traced for each size.

  All scales and both heads of every scale, in one unrolled graph.
  """

  @tf.function(autograph=False)
  def extract(image):
    pixels = feature_extractor.NormalizePixelValues(image)[tf.newaxis]
    boxes, features, scores, descriptors = [], [], [], []
    for scale in scales:
      size = [round(side * scale) for side in image.shape[:2]]
      scaled = tf.image.resize(pixels, size)
      descriptor, attention, found = model.build_call(scaled, training=False)
      shape = tf.shape(found)
      boxes.append(
        feature_extractor.CalculateReceptiveBoxes(
          shape[1], shape[2], 291, 16, 145
        )
        / scale
      )
      features.append(tf.reshape(found, [-1, found.shape[-1]]))
      scores.append(tf.reshape(attention, [-1]))
      descriptors.append(descriptor)
    boxes, scores = tf.concat(boxes, 0), tf.concat(scores, 0)
    kept = tf.image.non_max_suppression(boxes, scores, MOST_FEATURES, 1.0)
    local = tf.gather(tf.concat(features, 0), kept)
    return tf.gather(boxes, kept), local, tf.concat(descriptors, 0)

  return lambda image: [v.numpy() for v in extract(tf.constant(image))]


def network_alone(model, scales, indices):
  """Return a function that runs only the network of joint extraction.

  It has the loop of the export, with a sum instead of the feature selection.
  """
  calls = signatures.Network(model)
  specs = [
    tf.TensorSpec([None, None, 3], tf.uint8, "image"),
    tf.TensorSpec([None], tf.float32, "scales"),
    tf.TensorSpec([None], tf.int32, "indices"),
  ]

  @tf.function(input_signature=specs, autograph=False)
  def run(image, scales, indices):
    found, descriptors = tensorflow_ops.local_and_global(
      feature_extractor.NormalizePixelValues(image)[tf.newaxis],
      scales,
      None,
      indices,
      (calls.full, calls.local),
      calls.receptive,
    )
    return {"sum": tf.reduce_sum(found.features) + tf.reduce_sum(descriptors)}

  with (
    tempfile.TemporaryDirectory() as folder,
    compact.folded(model),
    unittest.mock.patch.object(tensorflow_ops, "candidates", _sum),
  ):
    exporting.save({"serving_default": run.get_concrete_function()}, folder)
    loaded = tf.saved_model.load(folder)
  call = loaded.signatures["serving_default"]
  feeds = {
    "scales": tf.constant(scales, tf.float32),
    "indices": tf.constant(indices, tf.int32),
  }
  # `call` alone does not keep the loaded model alive.
  return lambda image, _=loaded: call(image=tf.constant(image), **feeds)[
    "sum"
  ].numpy()


def find_openvino():
  """Return the package, or ends the program with one line."""
  try:
    import openvino
  except ImportError:
    raise SystemExit(
      "--openvino needs OpenVINO: pip install 'delf[openvino]'"
    ) from None
  return openvino


@contextlib.contextmanager
def openvino_ways(model, image, scales):
  """Give functions that run the network over the pyramid of an image.

  Args:
    model: As `make_model` returns it.
    image: [H, W, 3] uint8.
    scales: list of float.

  Yields:
    {"TensorFlow": function, "OpenVINO": function}, both without arguments and
    in float32; each returns a list of arrays, three for each scale.
  """
  openvino = find_openvino()
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
  """Return the largest difference, relative to the largest value of its array.

  Args:
    arrays: list of arrays.
    others: list of arrays of the same shapes.
  """
  return max(
    float(np.abs(a - b).max() / np.abs(a).max())
    for a, b in zip(arrays, others, strict=True)
  )


def _sum(attention, features, *_):
  """Stand in for `tensorflow_ops.candidates`: one feature, of all values."""
  total = tf.reduce_sum(attention) + tf.reduce_sum(features)
  zero = tf.zeros([1])
  return tensorflow_ops.LocalFeatures(
    tf.zeros([1, 4]), total[None, None], zero, zero, tf.zeros([1], tf.int32)
  )


def _named(function):
  """Return a concrete function whose outputs have names."""
  images = tf.TensorSpec([None, None, None, 3], tf.float32, "images")

  @tf.function(input_signature=[images])
  def call(images):
    return dict(zip(_OUTPUTS, function(images), strict=True))

  return call.get_concrete_function()
