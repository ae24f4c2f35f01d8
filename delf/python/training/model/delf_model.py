"""DELF: a backbone with attention over its local features.

Noh et al., arXiv:1612.06321; the autoencoder is that of DELG, Cao et al.,
arXiv:2001.05027.
"""

from collections.abc import Callable

import keras
from absl import logging
from keras import layers, ops

from delf.networks import backbones, heads

Tensor = keras.KerasTensor

AttentionModel = heads.AttentionModel
AutoencoderModel = heads.AutoencoderModel

# Defaults, which are the sizes of ResNets and stand for the backbone's own.
_RESNET_EMBEDDING = 2048
_RESNET_CHANNELS = 1024


class Delf(keras.Model):
  """A backbone, attention, and optionally an autoencoder between the two.

  All variables but the classifiers' exist once it is made. `autoencoder` may be
  None; `desc_classification` and `attn_classification` exist after
  `init_classifiers`.
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
  ):
    """Create the model with random weights.

    Args:
      block3_strides: Whether every second local feature is kept per direction.
      pooling: Pooling of the global descriptor: "avg", "max" or "gem"; a dense
        `embedding_layer` may follow it.
      embedding_layer_dim: 2048 stands for the backbone's default.
      use_dim_reduction: Whether an autoencoder codes local features in
        `reduced_dimension` channels.
      dim_expand_channels: Channels of the reconstruction; 1024 stands for those
        of the backbone's local features.
      backbone: Name of a backbone (see `backbones`), or one that is ready.
        Strides, pooling and the embedding layer are options of ResNets alone.
    """
    super().__init__(name=name)
    options = {}
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
    logits that keeps its weights elsewhere; None for a new dense layer.
    """
    if hasattr(self, "attn_classification"):
      raise RuntimeError(f"{self.name} has classifiers already")
    logging.info("Classifiers of %s: %d classes", self.name, num_classes)
    if desc_classification is None:
      desc_classification = layers.Dense(num_classes, name="desc_fc")
      desc_classification.build((None, self.backbone.global_channels))
    self.desc_classification = desc_classification
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

    Gradients of attention and autoencoder stop before the backbone (section 3.3
    of DELG).

    Returns:
      Global descriptor before the classifier, [B, D]; attended feature before
      the classifier, [B, C]; attention, [B, H', W', 1]; dict of the backbone's
      maps (`block3`: [B, H', W', C]); reconstructed local features
      [B, H', W', C] and their codes [B, H', W', reduced_dimension], or None.
    """
    blocks = {}
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
      features [B, H', W', C]: the autoencoder's codes if any, else `block3`.
      `intermediates_dict` receives the backbone's maps.
    """
    descriptor, _, attention, blocks, _, reduced = (
      self.global_and_local_forward_pass(input_image, training)
    )
    features = blocks["block3"] if reduced is None else reduced
    if intermediates_dict is not None:
      intermediates_dict.update(blocks)
    return descriptor, attention, features

  def global_call(self, input_image: Tensor, training: bool = True) -> Tensor:
    """Return the global descriptor [B, D] alone, not normalised."""
    return self.backbone.build_call(input_image, training=training)

  def local_call(
    self,
    input_image: Tensor,
    training: bool = True,
    intermediates_dict: dict | None = None,
  ) -> tuple[Tensor, Tensor]:
    """Return attention and local features without the last stage."""
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
