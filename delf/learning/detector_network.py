"""The detector: network, loss, and SavedModel for training and inference."""

import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from delf.base import errors
from delf.formats import checkpoints
from delf.networks import compact, exporting

# Side, in pixels, of the square to which photos are scaled.
SIDE = 320
# Pixels between cells; each cell predicts one box of each size.
STRIDE = 16
# Lower limit of the square root of a large box's area, as a share of the photo;
# other boxes are small.
LARGE = 0.4
SIZES = 2
# Layers of the backbone up to its last stage.
STAGES = {"stem", "norm1", "conv1a", "conv1b", "conv4a", "conv4b"}
STAGES |= {f"conv{number}{part}" for number in (2, 3) for part in "abc"}
# Upper limits of a photo's boxes, and of the overlap of two boxes.
MOST_BOXES, OVERLAP = 20, 0.5
# Boxes with lower scores are dropped.
_LEAST_SCORE = 0.02
# Channels of the head.
_CHANNELS = 96
# Initial logits of scores, and of the sides of large and small boxes: for few
# boxes of medium size.
_FIRST_SCORE, _FIRST_SIDES = -3.0, (-1.0, -2.2)
# Cells in the central share of a box are positive for it; other cells in the
# larger share are ignored.
_ANSWERS, _SPARED = 0.35, 0.7
# Lower limit of distances to the centre, as a share of the photo: 1.5 cells.
_NEAREST = 0.05

_VARIABLES = "variables/variables"


def cell_centres(side: int = SIDE) -> np.ndarray:
  """Return the centres of cells, float32 [N, 2], (y, x) in [0, 1]."""
  # Cell i of the backbone is centred on pixel 16 i.
  one = (np.arange(side // STRIDE, dtype=np.float32) * STRIDE + 0.5) / side
  return np.stack(np.meshgrid(one, one, indexing="ij"), -1).reshape(-1, 2)


class BoxHead(keras.Model):
  """Head that predicts scores and boxes in cells of stride 16."""

  def __init__(self, side: int = SIDE, name: str = "head"):
    """Create the head with random weights; `side` is a multiple of 32."""
    super().__init__(name=name)
    self.side = side
    self.finer = keras.layers.AveragePooling2D(2, name="finer")
    self.coarser = keras.layers.UpSampling2D(2, name="coarser")
    self.mix = compact.Convolution(_CHANNELS, size=1, name="mix")
    self.place = compact.Convolution(_CHANNELS, name="place")
    self.wide = [_Dilated(_CHANNELS, n, name=f"wide{n}") for n in (2, 4)]
    self.whole = keras.layers.Dense(_CHANNELS, name="whole")
    self.last = compact.Convolution(_CHANNELS, residual=True, name="last")
    self.score = keras.layers.Conv2D(
      SIZES,
      1,
      bias_initializer=keras.initializers.Constant(_FIRST_SCORE),
      dtype="float32",
      name="score",
    )
    self.sides = keras.layers.Conv2D(
      4 * SIZES,
      1,
      bias_initializer=lambda shape, dtype=None: ops.cast(
        np.repeat(_FIRST_SIDES, shape[0] // SIZES), dtype
      ),
      dtype="float32",
      name="sides",
    )
    self.cells = cell_centres(side)

  def build(self, input_shape: Any) -> None:
    """Do nothing: `call` builds the layers."""

  def call(self, stages: Any, training: bool = False) -> tuple[Any, Any]:
    """Predict boxes from feature maps of stride 8, 16 and 32.

    Returns:
      Logits of scores, float32 [B, N], and boxes, float32 [B, N, 4]: (ymin,
      xmin, ymax, xmax) in [0, 1]. N is the number of cells times SIZES, with
      the large and the small box of each cell in turn.
    """
    fine, middle, coarse = stages
    x = ops.concatenate([self.finer(fine), middle, self.coarser(coarse)], -1)
    x = self.mix(x, training=training)
    number = self.side // STRIDE
    where = ops.reshape(2.0 * self.cells - 1.0, [1, number, number, 2])
    where = ops.cast(where, x.dtype) + 0 * x[..., :2]
    x = self.place(ops.concatenate([x, where], -1), training=training)
    for layer in self.wide:
      x = layer(x, training=training)
    # Context of the whole photo.
    whole = [ops.mean(x, axis=(1, 2)), ops.max(x, axis=(1, 2))]
    whole = ops.concatenate(whole, -1)
    x = ops.relu(x + self.whole(whole)[:, None, None])
    x = self.last(x, training=training)
    sides = ops.sigmoid(ops.reshape(self.sides(x), [-1, number**2, SIZES, 4]))
    # Distances to the cell's centre, as shares of the photo.
    middle = np.concatenate([self.cells, self.cells], -1)[:, None]
    signs = np.array([-1, -1, 1, 1], np.float32)
    boxes = ops.clip(middle + signs * sides, 0.0, 1.0)
    total = number**2 * SIZES
    scores = ops.reshape(self.score(x), [-1, total])
    return scores, ops.reshape(boxes, [-1, total, 4])


class _Dilated(keras.layers.Layer):
  """A dilated residual convolution with batch normalization."""

  def __init__(self, filters, dilation, **kwargs):
    super().__init__(**kwargs)
    self.convolution = keras.layers.Conv2D(
      filters,
      3,
      padding="same",
      dilation_rate=dilation,
      use_bias=False,
      kernel_initializer="he_normal",
      name="convolution",
    )
    self.normalization = compact.normalization.BatchNormalization(
      momentum=0.97, gamma_initializer="zeros", name="normalization"
    )

  def call(self, inputs, training=False):
    """Return a map of the same shape."""
    x = self.normalization(self.convolution(inputs), training=training)
    return ops.relu(inputs + x)


def _path_in(variable, part):
  """Return the path of a variable relative to a part of the model."""
  return variable.path.rpartition(f"{part.name}/")[2]


class Detector:
  """The compact backbone with a `BoxHead`, for square images of one size."""

  def __init__(self, backbone: Any = None, side: int = SIDE):
    """Create the detector with random weights, but for a given backbone."""
    self.side = side
    self.backbone = backbone or compact.CompactBackbone()
    self.head = BoxHead(side)
    image = np.zeros([1, side, side, 3], np.float32)
    # Names of variables depend on the called model: build each separately.
    self.backbone(image, training=False)
    self.head(self.stages(image), training=False)

  def backbone_variables(self) -> list:
    """Return the trainable variables of the backbone up to its last stage."""
    return [
      variable
      for variable in self.backbone.trainable_variables
      if _path_in(variable, self.backbone).partition("/")[0] in STAGES
    ]

  def stages(self, images: Any) -> Any:
    """Return inputs of the head for images [B, side, side, 3], RGB to 255."""
    pixels = (ops.cast(images, "float32") - 128.0) / 128.0
    # Statistics of the backbone are frozen even in training.
    return self.backbone.stages(pixels, training=False)[2:]

  def __call__(self, images: Any, training: bool = False) -> tuple[Any, Any]:
    """Predict boxes of images [B, side, side, 3]; see `BoxHead.call`."""
    return self.head(self.stages(images), training=training)


def assign(cells: Any, boxes: Any) -> tuple[Any, Any, Any]:
  """Assign known boxes to cells.

  Centres (y, x) of cells are float32 [N, 2] in [0, 1]; boxes are float32
  [B, M, 4], those of area 0 padding.

  Returns:
    answers: float32 [B, N * SIZES], 1 for a positive cell and size.
    spared: float32 [B, N * SIZES], 1 where the loss of scores is ignored.
    targets: float32 [B, N * SIZES, 4], the box of each positive; the smallest
      if there are several.
  """
  sides = boxes[..., 2:] - boxes[..., :2]
  large = sides[..., 0] * sides[..., 1] >= LARGE**2
  of_sizes = [
    _assign(cells, tf.where(which[..., None], boxes, 0.0))
    for which in (large, ~large)
  ]
  total = len(cells) * SIZES
  answers, spared, targets = zip(*of_sizes, strict=True)
  return (
    tf.reshape(tf.stack(answers, 2), [-1, total]),
    tf.reshape(tf.stack(spared, 2), [-1, total]),
    tf.reshape(tf.stack(targets, 2), [-1, total, 4]),
  )


def _assign(cells, boxes):
  """Apply `assign` to boxes of one size."""
  centre = (boxes[..., :2] + boxes[..., 2:]) / 2
  size = boxes[..., 2:] - boxes[..., :2]
  area = size[..., 0] * size[..., 1]
  away = tf.abs(cells[None, :, None] - centre[:, None])
  exists = (area > 0)[:, None]

  def within(share):
    reach = tf.maximum(share * size / 2, _NEAREST)[:, None]
    return tf.reduce_all(away <= reach, -1) & exists

  near = within(_ANSWERS)
  smallest = tf.argmin(tf.where(near, area[:, None], 9.0), -1)
  targets = tf.gather(boxes, smallest, batch_dims=1)
  answers = tf.reduce_any(near, -1)
  spared = tf.reduce_any(within(_SPARED), -1) & ~answers
  return tf.cast(answers, tf.float32), tf.cast(spared, tf.float32), targets


def overlaps(one: Any, two: Any) -> tuple[Any, Any]:
  """Return IoU in [0, 1] and generalized IoU in [-1, 1] of pairs of boxes."""
  low = tf.maximum(one[..., :2], two[..., :2])
  high = tf.minimum(one[..., 2:], two[..., 2:])
  common = tf.reduce_prod(tf.nn.relu(high - low), -1)
  areas = [tf.reduce_prod(b[..., 2:] - b[..., :2], -1) for b in (one, two)]
  union = areas[0] + areas[1] - common
  low = tf.minimum(one[..., :2], two[..., :2])
  high = tf.maximum(one[..., 2:], two[..., 2:])
  hull = tf.reduce_prod(high - low, -1)
  overlap = tf.math.divide_no_nan(common, union)
  return overlap, overlap - tf.math.divide_no_nan(hull - union, hull)


def loss(
  logits: Any, predicted: Any, cells: Any, boxes: Any
) -> tuple[Any, Any, Any]:
  """Compare predicted with known boxes.

  Logits of scores [B, N * SIZES] and boxes [B, N * SIZES, 4] are predicted;
  cells and known boxes are those of `assign`.

  Returns:
    Loss of scores, loss of boxes, and mean overlap of the boxes of positive
    cells: three float32, means over the photos.
  """
  answers, spared, targets = assign(cells, boxes)
  overlap, general = overlaps(predicted, targets)
  number = tf.maximum(tf.reduce_sum(answers, -1), 1.0)
  target = tf.stop_gradient(answers * overlap)
  entropy = tf.nn.sigmoid_cross_entropy_with_logits(target, logits)
  # Confident correct scores have little weight: most cells are empty.
  hard = tf.square(tf.stop_gradient(tf.sigmoid(logits)) - target)
  scores = tf.reduce_sum(hard * entropy * (1 - spared), -1) / number
  apart = tf.reduce_sum(tf.abs(predicted - targets), -1)
  fit = tf.reduce_sum(answers * (1 - general + apart), -1) / number
  mean_overlap = tf.reduce_sum(answers * overlap, -1) / number
  photos = tf.cast(tf.shape(boxes)[0], tf.float32)
  terms = (scores, fit, mean_overlap)
  return tuple(tf.reduce_sum(each) / photos for each in terms)


def export(
  detector: Detector,
  folder: str | os.PathLike,
  overwrite: bool = False,
  extra: Iterable[tuple[str, bytes]] = (),
) -> None:
  """Write a detector as a SavedModel, with kernels in half precision.

  Its signature is that of detectors: `input_images` uint8 [B, H, W, 3] to
  `detection_boxes` [B, 20, 4], `detection_scores` [B, 20] and
  `detection_classes` [B, 20], all float32, best first, padded with 0. `extra`
  are further files by name and content. Raises InputError if the folder exists
  and must not be replaced.
  """
  half = _half(detector)
  module = tf.Module()
  for name, variable in half.items():
    setattr(module, name, variable)
  function = _function(detector, half).get_concrete_function()
  with exporting.destination(folder, overwrite) as new:
    with checkpoints.writing("the SavedModel", new):
      signatures = {"serving_default": function}
      tf.saved_model.save(module, os.fspath(new), signatures=signatures)
    for name, data in extra:
      pathlib.Path(new, name).write_bytes(data)


def finder(
  detector: Detector,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
  """Return a function that detects boxes in the same way as an export.

  It takes a photo, uint8 [H, W, 3], and returns boxes float32 [N, 4] and scores
  float32 [N], best first, with the current weights of the detector.
  """
  function = _function(detector, _half(detector))

  def find(image):
    outputs = function(tf.constant(image[None]))
    scores = outputs["detection_scores"][0].numpy()
    return outputs["detection_boxes"][0].numpy()[scores > 0], scores[scores > 0]

  return find


def load(folder: str | os.PathLike) -> Detector:
  """Read an export of `export` for training.

  Raises InputError if it is of another model, or damaged.
  """
  reader, prefix = checkpoints.open_reader(pathlib.Path(folder, _VARIABLES))
  detector = Detector()
  shapes = reader.get_variable_to_shape_map()
  variables, values = _variables(detector), {}
  for name, variable in variables.items():
    key = f"{name}{checkpoints.SUFFIX}"
    if shapes.get(key) != list(variable.shape):
      raise errors.InputError(
        f"not a detector of this library with its variables: {name} is "
        f"{shapes.get(key, 'missing')}, and must be {list(variable.shape)}",
        path=folder,
      )
    with checkpoints.reading(prefix):
      values[name] = reader.get_tensor(key)
  for name, variable in variables.items():
    variable.assign(values[name])
  return detector


def _variables(detector):
  """Return the variables that detection needs, by name."""
  named = {}
  for part in (detector.backbone, detector.head):
    for variable in part.variables:
      path = _path_in(variable, part)
      if part is detector.head or path.partition("/")[0] in STAGES:
        named[f"{part.name}-{path.replace('/', '-')}"] = variable
  return named


def _half(detector):
  """Return variables for an export by name, kernels in half precision."""
  half = {}
  for name, variable in _variables(detector).items():
    array = keras.ops.convert_to_numpy(variable)
    kind = np.float16 if array.ndim > 1 else np.float32
    half[name] = tf.Variable(array.astype(kind))
  return half


def _function(detector, half):
  """Return the function of the signature with the weights `half`."""
  variables = _variables(detector)

  images = tf.TensorSpec([None, None, None, 3], tf.uint8, name="input_images")

  @tf.function(input_signature=[images])
  def detect(input_images):
    weights = [(v, tf.cast(half[n], v.dtype)) for n, v in variables.items()]
    images = tf.image.resize(
      tf.cast(input_images, tf.float32), [detector.side] * 2, antialias=True
    )
    with keras.StatelessScope(state_mapping=weights):
      logits, boxes = detector(images, training=False)
    results = tf.image.combined_non_max_suppression(
      boxes[:, :, None],
      tf.sigmoid(logits)[..., None],
      max_output_size_per_class=MOST_BOXES,
      max_total_size=MOST_BOXES,
      iou_threshold=OVERLAP,
      score_threshold=_LEAST_SCORE,
      clip_boxes=True,
    )
    # The only class, with its number in detectors of landmarks.
    classes = tf.cast(results.nmsed_scores > 0, tf.float32)
    return {
      "detection_boxes": results.nmsed_boxes,
      "detection_scores": results.nmsed_scores,
      "detection_classes": classes,
    }

  return detect
