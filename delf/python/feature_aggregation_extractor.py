"""Aggregation of local features, under the name of the original."""

from collections.abc import Sequence

import numpy as np

from delf.aggregation import aggregate, visual_words
from delf.formats import configs
from delf.protos import aggregation_config_pb2


class ExtractAggregatedRepresentation:
  """Aggregates the local features of images with a codebook."""

  def __init__(
    self, aggregation_config: aggregation_config_pb2.AggregationConfig
  ) -> None:
    """Read the codebook, or share it if it was read before.

    `feature_batch_size` has no effect: the memory determines the block size.
    """
    configs.check_aggregation_config(aggregation_config)
    self._options = aggregate.options(aggregation_config)
    self._words = aggregate.Words(
      visual_words.read_configured(aggregation_config)
    )

  def Extract(
    self,
    features: np.ndarray,
    num_features_per_region: Sequence[int] | None = None,
  ) -> tuple[np.ndarray, np.ndarray | np.int32]:
    """Aggregate the features of one image, [N, D] float.

    Features of regions are concatenated. A regional aggregate without
    `num_features_per_region` is that of no features, as in the original.

    Returns:
      Aggregated descriptors: VLAD [K * D] float32, ASMK [M * D] float32, ASMK*
      [M * ceil(D / 8)] uint8; and visual words: [M] int64, ascending, or for
      VLAD the scalar -1, int32.
    """
    aggregated = aggregate.aggregate(
      self._words, features, self._options, num_features_per_region
    )
    if aggregated.words is None:
      return aggregated.descriptors, np.int32(-1)
    return aggregated.descriptors.reshape(-1), aggregated.words.astype(np.int64)
