"""Losses that rank: descriptors of one object near, of others far, any Keras.

Contrastive: Radenovic et al., arXiv:1604.02426, equation 5. Triplet: Schroff et
al., arXiv:1503.03832, equation 3; Arandjelovic et al., arXiv:1511.07247.

A batch is of B queries with one positive and K negatives each. The losses are
sums over all of them, as in the original, so that a sum of losses of single
queries is the loss of all. (The original's contrastive loss compares queries
with the images of other queries where B is over 1; here each has its own.)
"""

import keras
from keras import ops


class ContrastiveLoss(keras.losses.Loss):
  """Contrastive loss, called with queries, positives and negatives."""

  def __init__(self, margin=0.7, reduction="none"):
    """Creates the loss; it is one number whatever the reduction."""
    super().__init__(name="contrastive_loss", reduction=reduction)
    self.margin = margin

  def __call__(self, queries, positives, negatives):
    """Returns `contrastive_loss` with the margin."""
    return self.call(queries, positives, negatives)

  def call(self, queries, positives, negatives):
    """Returns `contrastive_loss` with the margin."""
    return contrastive_loss(queries, positives, negatives, margin=self.margin)


class TripletLoss(keras.losses.Loss):
  """Triplet loss, called with queries, positives and negatives."""

  def __init__(self, margin=0.1, reduction="none"):
    """Creates the loss; it is one number whatever the reduction."""
    super().__init__(name="triplet_loss", reduction=reduction)
    self.margin = margin

  def __call__(self, queries, positives, negatives):
    """Returns `triplet_loss` with the margin."""
    return self.call(queries, positives, negatives)

  def call(self, queries, positives, negatives):
    """Returns `triplet_loss` with the margin."""
    return triplet_loss(queries, positives, negatives, margin=self.margin)


def contrastive_loss(queries, positives, negatives, margin=0.7, eps=1e-6):
  """Returns the contrastive loss.

  Over all queries, it is the sum of d(query, positive)^2 / 2 and, over their
  negatives, max(margin - d(query, negative), 0)^2 / 2.

  Args:
    queries: Float [B, D].
    positives: Float [B, D], one of each query.
    negatives: Float [B, K, D]; K may be 0.
    margin: Distance over which a negative counts no more.
    eps: Added to differences, so that the distance of equal descriptors has a
      gradient.
  """
  to_positives = ops.sum(ops.square(queries - positives + eps), axis=-1)
  differences = queries[:, None, :] - negatives + eps
  to_negatives = ops.sqrt(ops.sum(ops.square(differences), axis=-1))
  lacking = ops.square(ops.maximum(margin - to_negatives, 0.0))
  return 0.5 * (ops.sum(to_positives) + ops.sum(lacking))


def triplet_loss(queries, positives, negatives, margin=0.1):
  """Returns the triplet loss of queries, as `contrastive_loss` takes them.

  Over all queries and their negatives, it is the sum of
  max(d(query, positive)^2 - d(query, negative)^2 + margin, 0): `margin` is how
  much further a negative should be, in squared distance.
  """
  to_positives = ops.sum(ops.square(queries - positives), axis=-1)
  differences = queries[:, None, :] - negatives
  to_negatives = ops.sum(ops.square(differences), axis=-1)
  return ops.sum(
    ops.maximum(to_positives[:, None] - to_negatives + margin, 0.0)
  )
