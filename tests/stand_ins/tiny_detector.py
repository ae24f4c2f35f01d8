"""Detectors without a network, in the form of each export."""

import pathlib

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1

NAMES = ("detection_boxes", "detection_scores", "detection_classes")


def bright(images, padded=3):
  """Returns the box of the bright pixels of each image, then boxes of nothing.

  Its score is the share of the image that is bright; its class is 1.

  Args:
    images: [B, H, W, 3] uint8 tensor.
    padded: Number of boxes for each image.
  """
  lit = tf.reduce_mean(tf.cast(images, tf.float32), 3) > 127
  sides = []
  for axis in (1, 2):
    along = tf.cast(tf.reduce_any(lit, 3 - axis), tf.float32)
    places = tf.range(tf.shape(along)[1], dtype=tf.float32)
    length = tf.cast(tf.shape(along)[1], tf.float32)
    first = tf.reduce_min(tf.where(along > 0, places, length), 1)
    last = tf.reduce_max(tf.where(along > 0, places + 1, 0.0), 1)
    sides.append((first / length, last / length))
  (top, bottom), (left, right) = sides
  is_any = tf.cast(tf.reduce_any(lit, [1, 2]), tf.float32)
  box = tf.stack([top, left, bottom, right], 1) * is_any[:, None]
  score = tf.reduce_mean(tf.cast(lit, tf.float32), [1, 2])
  more = padded - 1
  return {
    "detection_boxes": tf.pad(box[:, None], [[0, 0], [0, more], [0, 0]]),
    "detection_scores": tf.pad(score[:, None], [[0, 0], [0, more]]),
    "detection_classes": tf.pad(is_any[:, None], [[0, 0], [0, more]]),
  }


def always(boxes, scores, classes=None):
  """Returns what finds the same in every image.

  Args:
    boxes: [N, 4] numbers.
    scores: [N] numbers.
    classes: [N] numbers, or None for 1.
  """
  boxes = np.reshape(np.float32(boxes), [-1, 4])
  scores = np.float32(scores)
  classes = np.float32(np.ones_like(scores) if classes is None else classes)

  def find(images):
    number = tf.shape(images)[0]
    return {
      name: tf.repeat(tf.constant(value[None]), number, axis=0)
      for name, value in zip(NAMES, (boxes, scores, classes), strict=True)
    }

  return find


def save_function(
  folder, find=bright, names=NAMES, shape=(None, None, None, 3), image=None
):
  """Writes a detector as TensorFlow 2 does: a `serving_default` signature.

  Args:
    folder: Path of the SavedModel.
    find: Function of images that returns {name: tensor}.
    names: Names of the outputs.
    shape: Shape of the input.
    image: Name of the input, or None for `input_images`.

  Returns:
    pathlib.Path of the folder.
  """
  module = tf.Module()
  image = image or "input_images"

  @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, image)])
  def call(images):
    found = find(images)
    return {new: found[old] for new, old in zip(names, NAMES, strict=False)}

  module.call = call
  tf.saved_model.save(module, str(folder), signatures={"serving_default": call})
  return pathlib.Path(folder)


def save_graph(folder, find=bright, shape=(None, None, None, 3)):
  """Writes a detector as TensorFlow 1 did: a graph whose tensors have names.

  Args:
    folder: Path of the SavedModel.
    find: As of `save_function`.
    shape: As there.

  Returns:
    pathlib.Path of the folder.
  """
  graph = tf.Graph()
  with graph.as_default(), v1.Session(graph=graph) as session:
    images = v1.placeholder(tf.uint8, shape, "input_images")
    factor = v1.get_variable("factor", initializer=1.0, use_resource=False)
    found = {
      name: tf.identity(value * factor, name)
      for name, value in find(images).items()
    }
    session.run(v1.global_variables_initializer())
    builder = v1.saved_model.Builder(str(folder))
    signature = v1.saved_model.signature_def_utils.predict_signature_def(
      {"inputs": images}, {"boxes": found[NAMES[0]]}
    )
    builder.add_meta_graph_and_variables(
      session, [tf.saved_model.SERVING], {"serving_default": signature}
    )
    builder.save()
  return pathlib.Path(folder)
