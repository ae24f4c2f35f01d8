"""DELF: a backbone with attention over its local features.

Noh et al., arXiv:1612.06321; the autoencoder is that of DELG, Cao et al.,
arXiv:2001.05027.
"""

import keras
from absl import logging
from keras import layers, ops

from delf.networks import backbones, heads

AttentionModel = heads.AttentionModel
AutoencoderModel = heads.AutoencoderModel

# Size that `embedding_layer_dim` has unless it is given: that of ResNets.
_RESNET_EMBEDDING = 2048

# Width that `dim_expand_channels` has unless it is given: that of ResNets.
_RESNET_CHANNELS = 1024


class Delf(keras.Model):
  """A backbone, attention, and optionally an autoencoder between the two.

  All variables but the classifiers' exist once it is made. Attributes:
  `backbone`, `attention`, `autoencoder` (or None); after `init_classifiers`
  `desc_classification` and `attn_classification`.
  """

  def __init__(  # noqa: PLR0913
    self,
    block3_strides=True,
    name="DELF",
    pooling="avg",
    gem_power=3.0,
    embedding_layer=False,
    embedding_layer_dim=2048,
    use_dim_reduction=False,
    reduced_dimension=128,
    dim_expand_channels=_RESNET_CHANNELS,
    backbone="resnet50",
  ):
    """Creates the model with random weights.

    Args:
      block3_strides: Whether every second local feature is kept per direction.
      name: Name of the model.
      pooling: Pooling of the global descriptor: "avg", "max" or "gem".
      gem_power: Power of "gem".
      embedding_layer: Whether a dense layer follows the pooling.
      embedding_layer_dim: Size of the global descriptor after it; 2048 stands
        for what the backbone has by itself.
      use_dim_reduction: Whether an autoencoder codes local features.
      reduced_dimension: Channels of its codes.
      dim_expand_channels: Channels of what it reconstructs; 1024 stands for
        those of the backbone's local features.
      backbone: Name of a backbone (see `backbones`), or one that is ready.
        Strides, pooling and the embedding layer are options of ResNets alone.

    Raises:
      InputError: If there is no such backbone.
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
    self._make_heads(use_dim_reduction, reduced_dimension, dim_expand_channels)
    self.built = True

  def _make_heads(self, use_dim_reduction, reduced_dimension, channels):
    local_channels = self.backbone.local_channels
    if not use_dim_reduction or channels == _RESNET_CHANNELS:
      channels = local_channels
    self.attention = AttentionModel(name="attention")
    self.autoencoder = None
    if use_dim_reduction:
      self.autoencoder = AutoencoderModel(
        reduced_dimension, channels, name="autoencoder"
      )
      self.autoencoder.build((None, None, None, local_channels))
    self.attention.build((None, None, None, channels))
    self._attention_channels = channels

  def init_classifiers(self, num_classes, desc_classification=None):
    """Makes the classifiers that training needs, with random weights.

    Args:
      num_classes: Number of classes.
      desc_classification: Function or layer from global descriptors to logits,
        which keeps its weights elsewhere; None for a new dense layer.

    Raises:
      RuntimeError: If it has classifiers: Keras would go on holding them.
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
  def desc_trainable_weights(self):
    """Variables that the loss of the global descriptor trains."""
    return [
      *self.backbone.trainable_weights,
      *self.desc_classification.trainable_weights,
    ]

  @property
  def attn_trainable_weights(self):
    """Variables that the loss of the attention trains."""
    return [
      *self.attention.trainable_weights,
      *self.attn_classification.trainable_weights,
    ]

  @property
  def autoencoder_trainable_weights(self):
    """Variables that the loss of the reconstruction trains."""
    return (
      [] if self.autoencoder is None else self.autoencoder.trainable_weights
    )

  def global_and_local_forward_pass(self, images, training=True):
    """Runs all parts, as training needs them.

    Gradients of attention and autoencoder stop before the backbone (section 3.3
    of DELG).

    Args:
      images: Float [B, H, W, 3], normalised.
      training: Whether batch normalisation uses the statistics of the batch.

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

  def build_call(self, input_image, training=True, intermediates_dict=None):
    """Extracts global and local features.

    Args:
      input_image: Float [B, H, W, 3], normalised.
      training: Whether batch normalisation uses the statistics of the batch.
      intermediates_dict: None, or a dict that receives the backbone's maps.

    Returns:
      Global descriptor [B, D], not normalised; attention [B, H', W', 1]; local
      features [B, H', W', C]: the autoencoder's codes if any, else `block3`.
    """
    descriptor, _, attention, blocks, _, reduced = (
      self.global_and_local_forward_pass(input_image, training)
    )
    features = blocks["block3"] if reduced is None else reduced
    if intermediates_dict is not None:
      intermediates_dict.update(blocks)
    return descriptor, attention, features

  def global_call(self, input_image, training=True):
    """Returns the global descriptor [B, D] alone, not normalised."""
    return self.backbone.build_call(input_image, training=training)

  def local_call(self, input_image, training=True, intermediates_dict=None):
    """Returns attention and local features of `build_call` alone.

    The last stage of the backbone does not run; `intermediates_dict` receives
    the maps before it.
    """
    blocks = {} if intermediates_dict is None else intermediates_dict
    if hasattr(self.backbone, "local_call"):
      block3 = self.backbone.local_call(input_image, training, blocks)
    else:
      self.backbone.build_call(input_image, training, blocks)
      block3 = blocks["block3"]
    _, attention, _, reduced = self._local_heads(block3, training)
    return attention, block3 if reduced is None else reduced

  def call(self, input_image, training=True):
    """Returns what `local_call` returns, having run the whole backbone."""
    _, attention, features = self.build_call(input_image, training=training)
    return attention, features
