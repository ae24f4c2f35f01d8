"""DELG: DELF with a global descriptor that is trained by a cosine classifier.

Cao et al., arXiv:2001.05027; ArcFace: Deng et al., arXiv:1801.07698.
"""

import functools
import math
from typing import Any, TypeAlias

import keras
from absl import logging
from keras import ops

from delf.python.normalization_layers import normalization
from delf.python.training.model import delf_model

Tensor: TypeAlias = keras.KerasTensor

# Smallest squared sine, since the square root has no gradient at 0.
_SINE_EPSILON = 1e-12

# Smallest squared norm to divide by, as in `normalization.l2_normalize`.
_SQUARED_NORM_EPSILON = 1e-12


class Delg(delf_model.Delf):
  """DELF with GeM pooling, an embedding layer and a cosine classifier.

  `scale_factor` is not trained; `cosine_weights` [D, classes] exist after
  `init_classifiers`.
  """

  def __init__(  # noqa: PLR0913
    self,
    block3_strides: bool = True,
    name: str = "DELG",
    gem_power: float = 3.0,
    embedding_layer_dim: int = 2048,
    scale_factor_init: float = 45.25,
    arcface_margin: float = 0.1,
    use_dim_reduction: bool = False,
    reduced_dimension: int = 128,
    dim_expand_channels: int = 1024,
    backbone: str | keras.Model = "resnet50",
  ) -> None:
    """Create the model with random weights; see Delf.

    `scale_factor_init` is the factor between cosines and logits;
    `arcface_margin` is the angle in radians that training adds between a
    descriptor and its class.
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

  def init_classifiers(self, num_classes: int) -> None:  # type: ignore[override]
    """Create the classifiers of training; RuntimeError if they exist.

    `desc_classification(prelogits, labels, training=True)` is then
    `cosine_classifier_logits` with the weights of this model.
    """
    if hasattr(self, "cosine_weights"):
      raise RuntimeError(f"{self.name} already has classifiers")
    self.cosine_weights = self.add_weight(
      shape=(self.backbone.global_channels, num_classes),
      initializer="he_normal",
      name="cosine_weights",
    )
    classifier: Any = functools.partial(
      cosine_classifier_logits,
      num_classes=num_classes,
      cosine_weights=self.cosine_weights,
      scale_factor=self.scale_factor,
      arcface_margin=self._arcface_margin,
    )
    classifier.trainable_weights = [self.cosine_weights]
    super().init_classifiers(num_classes, desc_classification=classifier)
    logging.info("ArcFace margin %g", self._arcface_margin)

  # The original's order, by which its optimiser numbers its slots: variables of
  # the layers come before the model's own.

  @property
  def variables(self) -> list[keras.Variable]:
    """All variables, those of the layers first."""
    return self._own_last(super().variables)

  @property
  def weights(self) -> list[keras.Variable]:
    """All weights, those of the layers first."""
    return self._own_last(super().weights)

  def _own_last(self, variables):
    names = [n for n in ("cosine_weights", "scale_factor") if hasattr(self, n)]
    own = [getattr(self, name) for name in names]
    ids = {id(variable) for variable in own}
    return [v for v in variables if id(v) not in ids] + own


def cosine_classifier_logits(
  prelogits: Tensor,
  labels: Tensor | None,
  num_classes: int,
  cosine_weights: Tensor,
  scale_factor: Tensor,
  arcface_margin: float,
  training: bool = True,
) -> Tensor:
  """Return float [B, num_classes], the logits of a cosine classifier.

  Args:
    prelogits: Float [B, D], descriptors.
    labels: Int [B], classes from 0 to `num_classes` - 1; used only in training.
    cosine_weights: Float [D, num_classes], a direction for each class.
    arcface_margin: Angle in radians that training adds to that of the label.
  """
  units = normalization.l2_normalize(prelogits, axis=1)
  # As a tensor, since a variable would get no gradient from `_cosines`.
  weights = ops.reshape(cosine_weights, (-1, num_classes))
  cosines = _cosines(units, weights)
  if training and arcface_margin > 0.0:
    labels = ops.reshape(ops.cast(labels, "int32"), (-1, 1))
    rows = ops.arange(ops.shape(cosines)[0], dtype="int32")
    # One column of each row is changed: a mask of all classes would be large.
    own = ops.take_along_axis(cosines, labels, axis=1)[:, 0]
    indices = ops.concatenate([rows[:, None], labels], axis=1)
    margined = _add_margin(own, arcface_margin)
    cosines = ops.scatter_update(cosines, indices, margined)
  return scale_factor * cosines


@ops.custom_gradient
def _cosines(units, weights):
  """Return cosines [B, classes] of units [B, D] and weights [D, classes]."""
  # Weights of 203 094 classes take 1.7 GB; scaling them and differentiating
  # their norm would need three copies. With c = u.w / |w|, dc/dw is
  # (u - c w / |w|) / |w|.
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


def apply_arcface_margin(
  cosine_sim: Tensor, one_hot_labels: Tensor, arcface_margin: float
) -> Tensor:
  """Return cosines [B, num_classes] with an angle added for the labels.

  The margin, in radians, is not added if the sum would exceed pi.
  """
  margined = _add_margin(cosine_sim, arcface_margin)
  return ops.where(ops.cast(one_hot_labels, "bool"), margined, cosine_sim)


def _add_margin(cosines, margin):
  """Return cos(theta + margin) where theta <= pi - margin, else cos(theta)."""
  squared_sines = ops.maximum(1.0 - ops.square(cosines), _SINE_EPSILON)
  added = math.cos(margin) * cosines - math.sin(margin) * ops.sqrt(
    squared_sines
  )
  return ops.where(cosines >= -math.cos(margin), added, cosines)
