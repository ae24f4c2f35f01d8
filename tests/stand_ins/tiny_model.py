"""A model of a few weights, in the form of a TensorFlow 2 export."""

import numpy as np
import tensorflow as tf

# As every export of the library has them.
_PATCH = 16


class TinyModel(tf.Module):
  """Describes patches of 16 x 16 pixels by a random projection.

  Its tensors are named as those of the real exports, so that everything around
  the network can be tried in a second.
  """

  def __init__(self, dimensions=8, seed=0):
    super().__init__()
    generator = np.random.default_rng(seed)
    size = [_PATCH // 4 * _PATCH // 4 * 3, dimensions]
    self.weights = tf.Variable(
      generator.standard_normal(size).astype(np.float32), name="weights"
    )

  def _describe(self, image, scale):
    """Returns boxes [N, 4], descriptors [N, D] and scores [N] at one scale."""
    size = tf.cast(tf.shape(image)[:2], tf.float32) * scale
    size = tf.maximum(tf.cast(tf.round(size), tf.int32), _PATCH)
    scaled = tf.image.resize(tf.cast(image, tf.float32), size)[None] / 255.0
    small = tf.nn.avg_pool2d(scaled, 4, 4, "VALID")
    ones = [1, 4, 4, 1]
    patches = tf.image.extract_patches(
      small, ones, ones, [1, 1, 1, 1], "VALID"
    )[0]
    shape = tf.shape(patches)
    y, x = tf.meshgrid(tf.range(shape[0]), tf.range(shape[1]), indexing="ij")
    corner = tf.cast(tf.reshape(tf.stack([y, x], -1), [-1, 2]), tf.float32)
    boxes = tf.concat([corner * _PATCH, (corner + 1) * _PATCH], 1) / scale
    values = tf.reshape(patches, [-1, self.weights.shape[0]])
    descriptors = (values - 0.5) @ self.weights
    return boxes, descriptors, tf.math.reduce_std(values, axis=1)

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, 3], tf.uint8, "input_image"),
      tf.TensorSpec([None], tf.float32, "input_scales"),
      tf.TensorSpec([], tf.int32, "input_max_feature_num"),
      tf.TensorSpec([], tf.float32, "input_abs_thres"),
      tf.TensorSpec([None], tf.int32, "input_global_scales_ind"),
    ]
  )
  def __call__(
    self,
    input_image,
    input_scales,
    input_max_feature_num,
    input_abs_thres,
    input_global_scales_ind,
  ):
    dimensions = self.weights.shape[1]
    boxes = tf.zeros([0, 4])
    descriptors = tf.zeros([0, dimensions])
    scores = tf.zeros([0])
    scales = tf.zeros([0])
    means = tf.zeros([0, dimensions])
    for scale in input_scales:
      tf.autograph.experimental.set_loop_options(
        shape_invariants=[
          (boxes, tf.TensorShape([None, 4])),
          (descriptors, tf.TensorShape([None, dimensions])),
          (scores, tf.TensorShape([None])),
          (scales, tf.TensorShape([None])),
          (means, tf.TensorShape([None, dimensions])),
        ]
      )
      found = self._describe(input_image, scale)
      boxes = tf.concat([boxes, found[0]], 0)
      descriptors = tf.concat([descriptors, found[1]], 0)
      scores = tf.concat([scores, found[2]], 0)
      scales = tf.concat([scales, tf.fill(tf.shape(found[2]), 1 / scale)], 0)
      means = tf.concat([means, tf.reduce_mean(found[1], 0)[None]], 0)
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    number = tf.reduce_sum(tf.cast(scores >= input_abs_thres, tf.int32))
    order = order[: tf.minimum(number, input_max_feature_num)]
    return {
      "boxes": tf.gather(boxes, order),
      "features": tf.gather(descriptors, order),
      "scales": tf.gather(scales, order),
      "scores": tf.gather(scores, order)[:, None],
      "global_descriptors": tf.gather(means, input_global_scales_ind),
    }


CONFIG = """\
model_path: "{model}"
image_scales: 0.5
image_scales: 1.0
delf_local_config {{
  use_pca: false
  max_feature_num: 50
  score_threshold: 0.0
}}
use_global_features: true
delf_global_config {{
  use_pca: false
}}
"""


def save(folder, change=None, outputs=None):
  """Writes the model with a configuration beside it.

  Args:
    folder: pathlib.Path of the SavedModel.
    change: Function that changes the model before, or None.
    outputs: Names of the outputs to keep, or None for all.

  Returns:
    pathlib.Path of the configuration, `config.pbtxt` in the folder.
  """
  model = TinyModel()
  if change is not None:
    change(model)
  function = model.__call__
  if outputs is not None:
    whole = model.__call__

    @tf.function(input_signature=whole.input_signature)
    def function(*inputs):
      found = whole(*inputs)
      return {name: found[name] for name in outputs}

    model.part = function
  tf.saved_model.save(model, str(folder), signatures=function)
  config = folder / "config.pbtxt"
  config.write_text(CONFIG.format(model=folder))
  return config
