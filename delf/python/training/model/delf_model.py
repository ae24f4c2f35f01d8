"""DELF: a backbone with attention over its local features.

Noh et al., arXiv:1612.06321; the autoencoder is that of DELG, Cao et al.,
arXiv:2001.05027.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
from absl import logging
from keras import layers, ops

from delf.networks import backbones, heads

Tensor: TypeAlias = keras.KerasTensor

AttentionModel = heads.AttentionModel
AutoencoderModel = heads.AutoencoderModel

# Defaults, the sizes of ResNets; they stand for those of any backbone.
_RESNET_EMBEDDING = 2048
_RESNET_CHANNELS = 1024


class Delf(keras.Model):
  """A backbone, attention, and optionally an autoencoder between the two.

  All variables are created at once, except those of the classifiers,
  `desc_classification` and `attn_classification`, which `init_classifiers`
  creates. `autoencoder` may be None.
  """

  def __init__(  # noqa: PLR0913
    self,
    block3_strides: bool = True,
    name: str = "DELF",
    pooling: str = "avg",
    gem_power: float = 3.0,
    embedding_layer: bool = False,
    embedding_layer_dim: int = _RESNET_EMBEDDING,
    use_dim_reduction: bool = False,
    reduced_dimension: int = 128,
    dim_expand_channels: int = _RESNET_CHANNELS,
    backbone: str | keras.Model = "resnet50",
  ) -> None:
    """Create the model with random weights.

    Args:
      block3_strides: Whether to keep every second local feature per direction.
      pooling: Pooling of the global descriptor: "avg", "max" or "gem".
      gem_power: Power of "gem" pooling.
      embedding_layer: Whether a dense layer follows the pooling.
      embedding_layer_dim: Its size; 2048 stands for the backbone's default.
      use_dim_reduction: Whether an autoencoder reduces local features to
        `reduced_dimension` channels.
      dim_expand_channels: Channels of the reconstruction; 1024 stands for those
        of the backbone's local features.
      backbone: Name of a backbone (see `backbones`), or a model. Strides,
        pooling and the embedding layer apply only to ResNets.
    """
    super().__init__(name=name)
    options: dict[str, Any] = {}
    if embedding_layer_dim != _RESNET_EMBEDDING:
      options["embedding_layer_dim"] = embedding_layer_dim
    if backbone in ("resnet50", "resnet101"):
      options |= {
        "block3_strides": block3_strides,
        "pooling": pooling,
        "gem_power": gem_power,
        "embedding_layer": embedding_layer,
      }
    if isinstance(backbone, str):
      self.backbone = backbones.make(backbone, **options)
    else:
      self.backbone = backbones.build(backbone)
    local_channels = channels = self.backbone.local_channels
    if use_dim_reduction and dim_expand_channels != _RESNET_CHANNELS:
      channels = dim_expand_channels
    self.attention = AttentionModel(name="attention")
    self.autoencoder = None
    if use_dim_reduction:
      self.autoencoder = AutoencoderModel(
        reduced_dimension, channels, name="autoencoder"
      )
      self.autoencoder.build((None, None, None, local_channels))
    self.attention.build((None, None, None, channels))
    self._attention_channels = channels
    self.built = True

  def init_classifiers(
    self, num_classes: int, desc_classification: Callable | None = None
  ) -> None:
    """Create the classifiers of training; RuntimeError if they exist.

    `desc_classification` is a function or layer from global descriptors to
    logits, by default a new dense layer.
    """
    if hasattr(self, "attn_classification"):
      raise RuntimeError(f"{self.name} already has classifiers")
    logging.info("Classifiers of %s: %d classes", self.name, num_classes)
    if desc_classification is None:
      dense = layers.Dense(num_classes, name="desc_fc")
      dense.build((None, self.backbone.global_channels))
      desc_classification = dense
    self.desc_classification: Any = desc_classification
    self.attn_classification = layers.Dense(num_classes, name="att_fc")
    self.attn_classification.build((None, self._attention_channels))

  @property
  def desc_trainable_weights(self) -> list[keras.Variable]:
    """Variables that the loss of the global descriptor trains."""
    return [
      *self.backbone.trainable_weights,
      *self.desc_classification.trainable_weights,
    ]

  @property
  def attn_trainable_weights(self) -> list[keras.Variable]:
    """Variables that the loss of the attention trains."""
    return [
      *self.attention.trainable_weights,
      *self.attn_classification.trainable_weights,
    ]

  @property
  def autoencoder_trainable_weights(self) -> list[keras.Variable]:
    """Variables that the loss of the reconstruction trains."""
    return getattr(self.autoencoder, "trainable_weights", [])

  def global_and_local_forward_pass(
    self, images: Tensor, training: bool = True
  ) -> tuple[Tensor, Tensor, Tensor, dict, Tensor | None, Tensor | None]:
    """Run all parts on normalised images, float [B, H, W, 3], for training.

    Gradients of attention and autoencoder do not reach the backbone (section
    3.3 of DELG).

    Returns:
      Global descriptor before the classifier, [B, D]; attended feature before
      the classifier, [B, C]; attention, [B, H', W', 1]; the backbone's feature
      maps by name (`block3`: [B, H', W', C]); reconstructed local features
      [B, H', W', C] and their codes [B, H', W', reduced_dimension], or None.
    """
    blocks: dict[str, Tensor] = {}
    descriptor = self.backbone.build_call(
      images, training=training, intermediates_dict=blocks
    )
    feature, attention, expanded, reduced = self._local_heads(
      blocks["block3"], training
    )
    return descriptor, feature, attention, blocks, expanded, reduced

  def _local_heads(self, block3, training):
    block3 = ops.stop_gradient(block3)
    expanded = reduced = None
    if self.autoencoder is not None:
      expanded, reduced = self.autoencoder(block3)
    feature, attention, _ = self.attention(
      block3 if expanded is None else expanded, training=training
    )
    return feature, attention, expanded, reduced

  def build_call(
    self,
    input_image: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> tuple[Tensor, Tensor, Tensor]:
    """Extract global and local features of images, float [B, H, W, 3].

    Returns:
      Global descriptor [B, D], not normalised; attention [B, H', W', 1]; local
      features [B, H', W', C]: the codes of an autoencoder, or `block3`.
      `intermediates_dict` receives the backbone's feature maps.
    """
    descriptor, _, attention, blocks, _, reduced = (
      self.global_and_local_forward_pass(input_image, training)
    )
    features = blocks["block3"] if reduced is None else reduced
    if intermediates_dict is not None:
      intermediates_dict.update(blocks)
    return descriptor, attention, features

  def global_call(self, input_image: Tensor, training: bool = True) -> Tensor:
    """Return only the global descriptor [B, D], not normalised."""
    return self.backbone.build_call(input_image, training=training)

  def local_call(
    self,
    input_image: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> tuple[Tensor, Tensor]:
    """Return attention and local features without running the last stage."""
    blocks = {} if intermediates_dict is None else intermediates_dict
    if hasattr(self.backbone, "local_call"):
      block3 = self.backbone.local_call(input_image, training, blocks)
    else:
      self.backbone.build_call(input_image, training, blocks)
      block3 = blocks["block3"]
    _, attention, _, reduced = self._local_heads(block3, training)
    return attention, block3 if reduced is None else reduced

  def call(
    self, input_image: Tensor, training: bool = True
  ) -> tuple[Tensor, Tensor]:
    """Return attention and local features, running the whole backbone."""
    _, attention, features = self.build_call(input_image, training=training)
    return attention, features
