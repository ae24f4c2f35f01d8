"""DELG: DELF with a global descriptor that is trained by a cosine classifier.

Cao et al., arXiv:2001.05027; ArcFace: Deng et al., arXiv:1801.07698.
"""

import functools
import math

import keras
from absl import logging
from keras import ops

from delf.python.normalization_layers import normalization
from delf.python.training.model import delf_model

# Smallest squared sine: at the poles the gradient of the square root is none.
_SINE_EPSILON = 1e-12

# Smallest squared norm that is divided by, as in `normalization.l2_normalize`.
_SQUARED_NORM_EPSILON = 1e-12


class Delg(delf_model.Delf):
  """DELF with GeM pooling, an embedding layer and a cosine classifier.

  Attributes beside those of `Delf`: `scale_factor`, not trained, and after
  `init_classifiers` `cosine_weights` [D, classes].
  """

  def __init__(  # noqa: PLR0913
    self,
    block3_strides=True,
    name="DELG",
    gem_power=3.0,
    embedding_layer_dim=2048,
    scale_factor_init=45.25,
    arcface_margin=0.1,
    use_dim_reduction=False,
    reduced_dimension=128,
    dim_expand_channels=1024,
    backbone="resnet50",
  ):
    """Creates the model with random weights; other arguments are those of Delf.

    Args:
      gem_power: Power of the GeM pooling.
      embedding_layer_dim: Size of the global descriptor.
      scale_factor_init: What cosines are multiplied by to be logits.
      arcface_margin: Angle in radians that is added between a descriptor and
        its class in training.
    """
    super().__init__(
      block3_strides=block3_strides,
      name=name,
      pooling="gem",
      gem_power=gem_power,
      embedding_layer=True,
      embedding_layer_dim=embedding_layer_dim,
      use_dim_reduction=use_dim_reduction,
      reduced_dimension=reduced_dimension,
      dim_expand_channels=dim_expand_channels,
      backbone=backbone,
    )
    self._arcface_margin = arcface_margin
    self.scale_factor = self.add_weight(
      shape=(),
      initializer=keras.initializers.Constant(scale_factor_init),
      trainable=False,
      name="scale_factor",
    )

  def init_classifiers(self, num_classes):
    """Makes the classifiers that training needs, with random weights.

    `desc_classification(prelogits, labels, training=True)` is then
    `cosine_classifier_logits` with the weights of this model.

    Raises:
      RuntimeError: If it has classifiers: Keras would go on holding them.
    """
    if hasattr(self, "cosine_weights"):
      raise RuntimeError(f"{self.name} has classifiers already")
    self.cosine_weights = self.add_weight(
      shape=(self.backbone.global_channels, num_classes),
      initializer="he_normal",
      name="cosine_weights",
    )
    classifier = functools.partial(
      cosine_classifier_logits,
      num_classes=num_classes,
      cosine_weights=self.cosine_weights,
      scale_factor=self.scale_factor,
      arcface_margin=self._arcface_margin,
    )
    classifier.trainable_weights = [self.cosine_weights]
    super().init_classifiers(num_classes, desc_classification=classifier)
    logging.info("ArcFace margin %g", self._arcface_margin)

  # The original's order, by which its optimiser numbers its slots: what a model
  # holds itself comes after what its layers hold.

  @property
  def variables(self):
    """All variables; those of the layers first."""
    return self._own_last(super().variables)

  @property
  def weights(self):
    """All weights; those of the layers first."""
    return self._own_last(super().weights)

  def _own_last(self, variables):
    own = [
      variable
      for name in ("cosine_weights", "scale_factor")
      if (variable := getattr(self, name, None)) is not None
    ]
    ids = {id(variable) for variable in own}
    return [v for v in variables if id(v) not in ids] + own


def cosine_classifier_logits(
  prelogits,
  labels,
  num_classes,
  cosine_weights,
  scale_factor,
  arcface_margin,
  training=True,
):
  """Returns float [B, num_classes], the logits of a cosine classifier.

  Args:
    prelogits: Float [B, D], descriptors.
    labels: Int [B], classes in 0 to `num_classes` - 1; None where not training.
    num_classes: Number of classes.
    cosine_weights: Float [D, num_classes], a direction for each class.
    scale_factor: What cosines are multiplied by.
    arcface_margin: Angle in radians added between a descriptor and its class.
    training: Whether to add it.
  """
  units = normalization.l2_normalize(prelogits, axis=1)
  # A tensor of what may be a variable, which has no gradient of its own.
  weights = ops.reshape(cosine_weights, (-1, num_classes))
  cosines = _cosines(units, weights)
  if training and arcface_margin > 0.0:
    cosines = _margin_of_labels(cosines, labels, arcface_margin)
  return scale_factor * cosines


@ops.custom_gradient
def _cosines(units, weights):
  """Returns the cosines [B, classes] of units [B, D] and weights [D, classes].

  Weights for 203 094 classes take 1.7 GB. They are neither scaled, nor is their
  norm differentiated by itself, which takes three copies of them: with
  c = u.w / |w|, dc/dw is (u - c w / |w|) / |w|.
  """
  squared_norms = ops.sum(ops.square(weights), axis=0, keepdims=True)
  far = ops.cast(squared_norms > _SQUARED_NORM_EPSILON, units.dtype)
  inverse = ops.rsqrt(ops.maximum(squared_norms, _SQUARED_NORM_EPSILON))
  cosines = ops.matmul(units, weights) * inverse

  def gradient(*arguments, upstream=None):
    if upstream is None:
      (upstream,) = arguments
    scaled = upstream * inverse
    along = ops.sum(scaled * cosines, axis=0, keepdims=True) * inverse * far
    of_units = ops.matmul(scaled, ops.transpose(weights))
    of_weights = ops.matmul(ops.transpose(units), scaled) - weights * along
    return of_units, of_weights

  return cosines, gradient


def _margin_of_labels(cosines, labels, margin):
  """Returns cosines [B, classes], those of the labels [B] with a margin."""
  labels = ops.reshape(ops.cast(labels, "int32"), (-1, 1))
  rows = ops.arange(ops.shape(cosines)[0], dtype="int32")
  # The one column of each row is taken out and put back: no mask of classes.
  own = ops.take_along_axis(cosines, labels, axis=1)[:, 0]
  places = ops.concatenate([rows[:, None], labels], axis=1)
  return ops.scatter_update(cosines, places, _add_margin(own, margin))


def apply_arcface_margin(cosine_sim, one_hot_labels, arcface_margin):
  """Returns cosines [B, num_classes] with an angle added for the labels.

  Args:
    cosine_sim: Float [B, num_classes], cosines.
    one_hot_labels: Float or bool [B, num_classes], 1 for the label.
    arcface_margin: Angle in radians; not added where the sum would exceed pi.
  """
  margined = _add_margin(cosine_sim, arcface_margin)
  return ops.where(ops.cast(one_hot_labels, "bool"), margined, cosine_sim)


def _add_margin(cosines, margin):
  """Returns cos(theta + margin) where theta <= pi - margin, else cos(theta)."""
  squared_sines = ops.maximum(1.0 - ops.square(cosines), _SINE_EPSILON)
  added = math.cos(margin) * cosines - math.sin(margin) * ops.sqrt(
    squared_sines
  )
  return ops.where(cosines >= -math.cos(margin), added, cosines)
