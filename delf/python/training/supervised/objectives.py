"""Losses of DELF and DELG, and what else a training step tells.

Section 3.2 of DELG (Cao et al., arXiv:2001.05027).
"""

import tensorflow as tf

from delf.python.training.model import delg_model

# Metrics by the tags that users know from TensorBoard.
DESCRIPTOR = "loss/desc/crossentropy"
ATTENTION = "loss/attn/crossentropy"
RECONSTRUCTION = "loss/recon/mse"
REGULARIZATION = "loss/regularization"
TOTAL = "loss/total"
ACCURACY = {"desc": "train_accuracy/desc", "attn": "train_accuracy/attn"}

# Blocks of the backbone whose zeros are counted.
_BLOCKS = ("block0", "block0mp", "block1", "block2", "block3", "block4")


def forward(model, images, labels, training, normalize_by_batch):
  """Runs a model up to its logits.

  Args:
    model: delf_model.Delf with classifiers.
    images: Float [B, H, W, 3], normalised.
    labels: Int [B].
    training: Whether ArcFace's margin is added.
    normalize_by_batch: Whether batch normalisation uses the batch.

  Returns:
    dict: `desc_logits`, `attn_logits` float32 [B, classes]; `attention` float
    [B, H', W', 1]; `blocks` dict of feature maps; `expanded` float [B, H', W',
    C], or None.
  """
  descriptor, feature, attention, blocks, expanded, _ = (
    model.global_and_local_forward_pass(images, training=normalize_by_batch)
  )
  # Logits and losses are float32 whatever the network computes with.
  descriptor = tf.cast(descriptor, tf.float32)
  if isinstance(model, delg_model.Delg):
    logits = model.desc_classification(descriptor, labels, training=training)
  else:
    logits = model.desc_classification(descriptor)
  return {
    "desc_logits": tf.cast(logits, tf.float32),
    "attn_logits": tf.cast(model.attn_classification(feature), tf.float32),
    "attention": attention,
    "blocks": blocks,
    "expanded": expanded,
  }


def losses(model, outputs, labels, batch_size, replicas):
  """Returns the losses of one device's share of a batch.

  The sum over the devices is the loss of the whole batch: of examples it is the
  mean over the batch, of reconstructions the mean over the devices, and what
  does not depend on the examples counts once.

  Args:
    model: As for `forward`.
    outputs: What `forward` returned.
    labels: Int [B].
    batch_size: Number of examples over all devices.
    replicas: Number of devices.

  Returns:
    dict of tag to float32 scalar, without weights and total; RECONSTRUCTION is
    there where there is an autoencoder.
  """
  entropies = {
    tag: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs[name])
    for tag, name in ((DESCRIPTOR, "desc_logits"), (ATTENTION, "attn_logits"))
  }
  result = {t: tf.reduce_sum(e) / batch_size for t, e in entropies.items()}
  if outputs["expanded"] is not None:
    local = tf.cast(tf.stop_gradient(outputs["blocks"]["block3"]), tf.float32)
    error = local - tf.cast(outputs["expanded"], tf.float32)
    result[RECONSTRUCTION] = tf.reduce_mean(tf.square(error)) / replicas
  result[REGULARIZATION] = tf.add_n([0.0, *model.losses]) / replicas
  return result


def total(parts, learning):
  """Returns the weighted sum of losses.

  Args:
    parts: dict of `losses`.
    learning: settings.Learning.

  Returns:
    float32 scalar.
  """
  return (
    parts[DESCRIPTOR]
    + learning.attention_loss_weight * parts[ATTENTION]
    + learning.reconstruction_loss_weight * parts.get(RECONSTRUCTION, 0.0)
    + parts[REGULARIZATION]
  )


def guesses(outputs):
  """Returns the most likely classes, dict of "desc" and "attn" to int64 [B]."""
  return {
    name: tf.argmax(outputs[f"{name}_logits"], axis=1)
    for name in ("desc", "attn")
  }


def sparsity_tags(blocks):
  """Returns the tags of `sparsity`."""
  return [f"sparsity/{name}" for name in _BLOCKS if name in blocks]


def sparsity(blocks, replicas):
  """Returns the shares of zeros in feature maps.

  Args:
    blocks: dict of name to float [B, H, W, C].
    replicas: Number of devices, over which the shares are to be summed.

  Returns:
    dict of tag to float32 scalar.
  """
  return {
    tag: tf.nn.zero_fraction(blocks[tag.rpartition("/")[2]]) / replicas
    for tag in sparsity_tags(blocks)
  }
