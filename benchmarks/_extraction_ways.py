"""Ways to extract that the benchmark of extraction compares with."""

import tempfile
import unittest.mock

import tensorflow as tf

from delf.networks import compact, exporting, heads, signatures, tensorflow_ops
from delf.python import feature_extractor
from delf.python.training.model import delg_model

MOST_FEATURES = 1000


def make_model():
  """Returns DELG on ResNet-50 with random weights."""
  return delg_model.Delg(block3_strides=False, use_dim_reduction=True)


def straightforward(model, scales):
  """Returns a function of an image, traced for each size.

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
  """Returns a function that runs what joint extraction runs of the network.

  The export's own loop, with a sum in place of the choice of features.
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
    unittest.mock.patch.object(heads, "candidates", _sum),
  ):
    exporting.save({"serving_default": run.get_concrete_function()}, folder)
    loaded = tf.saved_model.load(folder)
  call = loaded.signatures["serving_default"]
  feeds = {
    "scales": tf.constant(scales, tf.float32),
    "indices": tf.constant(indices, tf.int32),
  }
  # The function does not keep what it was loaded with.
  return lambda image, _=loaded: call(image=tf.constant(image), **feeds)[
    "sum"
  ].numpy()


def _sum(attention, features, *_):
  """Stands in for `selecting.candidates`: one feature, of all values."""
  total = tf.reduce_sum(attention) + tf.reduce_sum(features)
  zero = tf.zeros([1])
  return tensorflow_ops.Local(
    tf.zeros([1, 4]), total[None, None], zero, zero, tf.zeros([1], tf.int32)
  )
