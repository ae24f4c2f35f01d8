"""A detector as a SavedModel, from which its training can go on too."""

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from delf.python import checkpoint_io, errors
from delf.python.training.detector import network
from delf.python.training.model import export_folder

# Boxes of a photo at most, and the overlap above which the lower one goes.
MOST_BOXES, OVERLAP = 20, 0.5
# Boxes of a lower score are none.
_LEAST_SCORE = 0.02

_VARIABLES = "variables/variables"
_KIND = "a detector of this library, with its variables"


def export(detector, folder, overwrite=False, extra=()):
  """Writes a detector as a SavedModel; kernels are kept in half precision.

  Its signature is that of detectors: `input_images` uint8 [B, H, W, 3] to
  `detection_boxes` [B, 20, 4], `detection_scores` [B, 20] and
  `detection_classes` [B, 20], all float32, best first; what is left is 0.

  Args:
    detector: network.Detector.
    folder: Folder to be; see `export_folder.destination`.
    overwrite: Whether a finished export there is replaced.
    extra: (name, bytes) of files that lie in it too.

  Raises:
    InputError: If there is something that is not to be replaced.
    OSError: If it cannot be written.
  """
  half = _half(detector)
  with export_folder.destination(folder, overwrite) as new:
    _save(_function(detector, half), half, new)
    for name, data in extra:
      pathlib.Path(new, name).write_bytes(data)


def finder(detector):
  """Returns a function that finds boxes as an export does.

  Args:
    detector: network.Detector, as it is now.

  Returns:
    Function from a photo, uint8 [H, W, 3], to boxes float32 [N, 4] and scores
    float32 [N], best first.
  """
  function = _function(detector, _half(detector))

  def find(image):
    found = function(tf.constant(image[None]))
    scores = found["detection_scores"][0].numpy()
    return found["detection_boxes"][0].numpy()[scores > 0], scores[scores > 0]

  return find


def load(folder):
  """Reads a detector that `export` wrote, for training.

  Args:
    folder: Folder of its SavedModel.

  Returns:
    network.Detector.

  Raises:
    FileNotFoundError: If there is none.
    InputError: If it is another model, or damaged.
  """
  reader, prefix = checkpoint_io.open_reader(pathlib.Path(folder, _VARIABLES))
  detector = network.Detector()
  shapes = reader.get_variable_to_shape_map()
  values = {}
  for name, variable in _variables(detector).items():
    key = f"{name}{checkpoint_io.SUFFIX}"
    if shapes.get(key) != list(variable.shape):
      raise errors.InputError(
        f"{_KIND}, {name} {list(variable.shape)}",
        f"one with {shapes.get(key, 'none')}",
        folder,
      )
    with checkpoint_io.reading(prefix):
      values[name] = reader.get_tensor(key)
  for name, variable in _variables(detector).items():
    variable.assign(values[name])
  return detector


def _variables(detector):
  """Returns the variables that finding boxes needs, by name."""
  named = {}
  for part in (detector.backbone, detector.head):
    for variable in part.variables:
      path = network.in_part(variable, part)
      layer = path.partition("/")[0]
      if part is detector.head or layer in network.STAGES:
        named[f"{part.name}-{path.replace('/', '-')}"] = variable
  return named


def _half(detector):
  """Returns variables with the values that an export has, by name."""
  return {
    name: tf.Variable(_stored(keras.ops.convert_to_numpy(variable)))
    for name, variable in _variables(detector).items()
  }


def _stored(array):
  """Returns kernels in half precision; statistics may not fit into it."""
  return array.astype(np.float16 if array.ndim > 1 else np.float32)


def _function(detector, half):
  """Returns the function of the signature, with the weights `half`."""
  variables = _variables(detector)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.uint8, name="input_images")
    ]
  )
  def detect(input_images):
    weights = [(v, tf.cast(half[n], v.dtype)) for n, v in variables.items()]
    images = _scaled(input_images, detector.side)
    with keras.StatelessScope(state_mapping=weights):
      logits, boxes = detector(images, training=False)
    found = tf.image.combined_non_max_suppression(
      boxes[:, :, None],
      tf.sigmoid(logits)[..., None],
      max_output_size_per_class=MOST_BOXES,
      max_total_size=MOST_BOXES,
      iou_threshold=OVERLAP,
      score_threshold=_LEAST_SCORE,
      clip_boxes=True,
    )
    # One class, by the number that detectors of landmarks give it.
    classes = tf.cast(found.nmsed_scores > 0, tf.float32)
    return {
      "detection_boxes": found.nmsed_boxes,
      "detection_scores": found.nmsed_scores,
      "detection_classes": classes,
    }

  return detect


def _scaled(images, side):
  """Returns images scaled to a square, float32 [B, side, side, 3]."""
  return tf.image.resize(
    tf.cast(images, tf.float32), [side, side], antialias=True
  )


def _save(function, half, folder):
  module = tf.Module()
  for name, variable in half.items():
    setattr(module, name, variable)
  with checkpoint_io.writing("the SavedModel", folder):
    tf.saved_model.save(
      module,
      os.fspath(folder),
      signatures={"serving_default": function.get_concrete_function()},
    )
