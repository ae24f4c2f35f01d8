"""The codebook of a collection, by which local features become words."""

from delf.protos import aggregation_config_pb2
from delf.python import codebook_io, config_io, errors


def add(found, wanted):
  """Gives a collection its codebook, or checks that it has that one.

  Args:
    found: collection.Collection.
    wanted: aggregation_config_pb2.AggregationConfig.

  Raises:
    InputError: If it has no local features, or another codebook.
  """
  if not found.settings.local_extension:
    raise errors.InputError(
      "local features, which a codebook is for", "none", found.folder
    )
  codebook = codebook_io.read_codebook(
    wanted.codebook_path, wanted.codebook_size, wanted.feature_dimensionality
  )
  if not found.has_codebook:
    found.write_aggregation(wanted, codebook)
    return
  there = found.aggregation_config()
  same = codebook_io.read_codebook(there.codebook_path)
  there.codebook_path = wanted.codebook_path
  if (
    there != wanted or same.shape != codebook.shape or (same != codebook).any()
  ):
    raise errors.InputError(
      "the codebook and aggregation that the index was made with",
      "another",
      found.folder,
    )


def choose(aggregation_path, codebook):
  """Returns the AggregationConfig that is asked for.

  Args:
    aggregation_path: Path of a `.pbtxt`, or None.
    codebook: Prefix of a checkpoint, or None.

  Returns:
    aggregation_config_pb2.AggregationConfig, or None where both are None.

  Raises:
    InputError: If it is not one that an inverted index takes.
  """
  if aggregation_path:
    config = config_io.read_aggregation_config(aggregation_path)
    if (
      config.aggregation_type == config.VLAD or config.use_regional_aggregation
    ):
      raise errors.InputError(
        "aggregation_type ASMK or ASMK_STAR, not regional",
        "another",
        aggregation_path,
      )
  elif codebook:
    config = aggregation_config_pb2.AggregationConfig()
  else:
    return None
  if codebook:
    size, dimension = codebook_io.read_codebook(codebook).shape
    config.codebook_path = codebook
    config.codebook_size = size
    config.feature_dimensionality = dimension
  return config
