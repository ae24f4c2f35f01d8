"""Local features to one aggregate, under the name of the original."""

import numpy as np

from delf.aggregation import aggregate, visual_words
from delf.formats import configs


class ExtractAggregatedRepresentation:
  """Aggregates the local features of images by the words of a codebook."""

  def __init__(self, aggregation_config):
    """Reads the codebook; one that was read before is shared.

    Args:
      aggregation_config: AggregationConfig. `feature_batch_size` has no effect
        here: blocks are as large as suits the memory.

    Raises:
      FileNotFoundError: If there is no codebook.
      InputError: If the configuration has a value that cannot be, or the
        codebook is of another shape.
    """
    configs.check_aggregation_config(aggregation_config)
    self._options = aggregate.options(aggregation_config)
    self._words = aggregate.Words(
      visual_words.read_codebook(
        aggregation_config.codebook_path,
        aggregation_config.codebook_size,
        aggregation_config.feature_dimensionality,
      )
    )

  def Extract(self, features, num_features_per_region=None):
    """Aggregates the features of one image.

    Args:
      features: [N, D] float, descriptors of local features; those of regions
        one region after the other.
      num_features_per_region: [R] int, for regional aggregation. Without it (as
        in the original) a regional aggregate is that of no features.

    Returns:
      Aggregated descriptors: VLAD [K * D] float32, ASMK [M * D] float32, ASMK*
      [M * ceil(D / 8)] uint8; and visual words: [M] int64, ascending, or for
      VLAD the int32 -1.

    Raises:
      InputError: If features are of another dimension than the codebook or not
        finite, or the regions do not have as many features in all.
    """
    found = aggregate.aggregate(
      self._words, features, self._options, num_features_per_region
    )
    if found.words is None:
      return found.descriptors, np.int32(-1)
    return found.descriptors.reshape(-1), found.words.astype(np.int64)
