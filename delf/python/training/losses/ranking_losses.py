"""Ranking losses on any backend of Keras.

Contrastive: Radenovic et al., arXiv:1604.02426, equation 5. Triplet: Schroff et
al., arXiv:1503.03832, equation 3; Arandjelovic et al., arXiv:1511.07247.

A batch has queries, float [B, D], with one positive each, [B, D], and K
negatives each, [B, K, D]; K may be 0. Losses are summed over the batch, as in
the original. (The original's contrastive loss confuses the images of different
queries if B is over 1.)
"""

from collections.abc import Callable
from typing import TypeAlias

import keras
from keras import ops

Tensor: TypeAlias = keras.KerasTensor


def contrastive_loss(
  queries: Tensor,
  positives: Tensor,
  negatives: Tensor,
  margin: float = 0.7,
  eps: float = 1e-6,
) -> Tensor:
  """Return float [], the contrastive loss.

  It is the sum over queries of d(query, positive)^2 / 2 and, over their
  negatives, max(margin - d(query, negative), 0)^2 / 2. `eps` is added to
  differences to give the distance of equal descriptors a gradient.
  """
  to_positives = ops.sum(ops.square(queries - positives + eps), axis=-1)
  differences = queries[:, None, :] - negatives + eps
  to_negatives = ops.sqrt(ops.sum(ops.square(differences), axis=-1))
  lacking = ops.square(ops.maximum(margin - to_negatives, 0.0))
  return 0.5 * (ops.sum(to_positives) + ops.sum(lacking))


def triplet_loss(
  queries: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.1
) -> Tensor:
  """Return float [], the triplet loss.

  It is the sum over queries and their negatives of
  max(d(query, positive)^2 - d(query, negative)^2 + margin, 0).
  """
  to_positives = ops.sum(ops.square(queries - positives), axis=-1)
  differences = queries[:, None, :] - negatives
  to_negatives = ops.sum(ops.square(differences), axis=-1)
  return ops.sum(
    ops.maximum(to_positives[:, None] - to_negatives + margin, 0.0)
  )


class _RankingLoss(keras.losses.Loss):
  """Base of losses with three inputs; `reduction` has no effect."""

  function: Callable[..., Tensor]

  def __init__(self, name: str, margin: float, reduction: str):
    super().__init__(name=name, reduction=reduction)
    self.margin = margin

  def call(
    self, queries: Tensor, positives: Tensor, negatives: Tensor
  ) -> Tensor:
    """Return the loss with the margin, float []."""
    return self.function(queries, positives, negatives, self.margin)

  __call__ = call


class ContrastiveLoss(_RankingLoss):
  """Contrastive loss; see `contrastive_loss`."""

  function = staticmethod(contrastive_loss)

  def __init__(self, margin: float = 0.7, reduction: str = "none") -> None:
    super().__init__("contrastive_loss", margin, reduction)


class TripletLoss(_RankingLoss):
  """Triplet loss; see `triplet_loss`."""

  function = staticmethod(triplet_loss)

  def __init__(self, margin: float = 0.1, reduction: str = "none") -> None:
    super().__init__("triplet_loss", margin, reduction)
