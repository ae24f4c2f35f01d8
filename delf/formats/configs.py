"""Configurations, read from text and checked."""

import math

from google.protobuf import message, text_format

from delf.base import errors, files
from delf.protos import aggregation_config_pb2, delf_config_pb2


def read_delf_config(path: files.Path) -> delf_config_pb2.DelfConfig:
  """Read and check an extraction configuration in protobuf's text format.

  As in the original, of a repeated field the later value counts.
  """
  return parse_delf_config(_read_text(path, "DelfConfig"), path)


def read_local_config(path: files.Path) -> delf_config_pb2.DelfConfig:
  """Read a configuration of local features, global ones switched off."""
  config = read_delf_config(path)
  if not config.use_local_features:
    raise errors.InputError(
      "a configuration with use_local_features", "one without", path
    )
  config.use_global_features = False
  return config


def parse_delf_config(
  text: str, path: files.Path | None = None
) -> delf_config_pb2.DelfConfig:
  """Parse and check a DelfConfig, as `read_delf_config` does."""
  config = _parse(text, delf_config_pb2.DelfConfig(), path)
  check_delf_config(config, path)
  return config


def read_aggregation_config(
  path: files.Path,
) -> aggregation_config_pb2.AggregationConfig:
  """Read and check an aggregation configuration in text format."""
  config = aggregation_config_pb2.AggregationConfig()
  _parse(_read_text(path, "AggregationConfig"), config, path)
  check_aggregation_config(config, path)
  return config


def check_aggregation_config(
  config: aggregation_config_pb2.AggregationConfig,
  path: files.Path | None = None,
) -> None:
  """Raise InputError, with the field, if a value is invalid; open no file."""
  _raise_first(_aggregation_checks(config), path)


def check_delf_config(
  config: delf_config_pb2.DelfConfig, path: files.Path | None = None
) -> None:
  """Raise InputError, with the field, if a value is invalid; open no file.

  Fields of a head that is off are not checked. Models of global features may
  have scales of their own, so that none are needed here.
  """
  _raise_first(_delf_checks(config), path)


def _raise_first(checks, path):
  """Raise InputError of the first failed (condition, expected, received)."""
  for condition, expected, received in checks:
    if not condition:
      raise errors.InputError(expected, received, path)


def _aggregation_checks(config):
  expected = "aggregation_type VLAD, ASMK or ASMK_STAR"
  yield config.aggregation_type != config.INVALID, expected, "INVALID"
  for name in ("codebook_size", "feature_dimensionality", "num_assignments"):
    value = getattr(config, name)
    yield value > 0, f"a positive {name}", value
  number, size = config.num_assignments, config.codebook_size
  yield number <= size, f"num_assignments up to codebook_size, {size}", number
  yield config.codebook_path, "a codebook_path", "none"


def _delf_checks(config):
  use_local, use_global = config.use_local_features, config.use_global_features
  scales, limit = config.image_scales, config.max_image_size
  yield config.model_path, "a model_path", "none"
  expected = "use_local_features or use_global_features"
  yield use_local or use_global, expected, "neither"
  expected = "image_scales, at least one, for local features"
  yield scales or not use_local, expected, "none"
  for scale in scales:
    positive = scale > 0 and math.isfinite(scale)
    yield positive, "positive image_scales", scale
  # Below 0 there is no limit; a min_image_size of 0 is none either.
  yield limit, "a max_image_size over 0, or -1 for none", limit
  if use_local:
    local = config.delf_local_config
    iou, most = local.iou_threshold, local.max_feature_num
    yield 0 <= iou <= 1, "an iou_threshold from 0 to 1", iou
    yield most >= 0, "a max_feature_num of at least 0", most
    score = local.score_threshold
    yield not math.isnan(score), "a number as score_threshold", score
    yield from _pca_checks("delf_local_config", local)
  if use_global:
    chosen, number = config.delf_global_config.image_scales_ind, len(scales)
    expected = "image_scales for image_scales_ind to choose from"
    yield number or not chosen, expected, "none"
    expected = (
      f"image_scales_ind from 0 to {number - 1} ({number} image_scales)"
    )
    for index in chosen:
      yield 0 <= index < number, expected, index
    yield from _pca_checks("delf_global_config", config.delf_global_config)


def _pca_checks(name, config):
  """Check the PCA of one head; `use_pca` is on where it is not set."""
  if not config.use_pca:
    return
  pca = config.pca_parameters
  needed = ["mean_path", "projection_matrix_path"]
  if pca.use_whitening:
    needed.append("pca_variances_path")
  for field in needed:
    expected = f"{name}.pca_parameters.{field}, or {name}.use_pca: false"
    yield getattr(pca, field), expected, "none"
  expected = f"a positive {name}.pca_parameters.pca_dim"
  yield pca.pca_dim > 0, expected, pca.pca_dim


def _read_text(path, name):
  try:
    return files.read_bytes(path).decode("utf-8")
  except UnicodeDecodeError:
    raise errors.InputError(f"text of {name}", "binary data", path) from None


def _parse(text: str, config: message.Message, path):
  """Merge text into `config` and return it."""
  try:
    return text_format.Merge(text, config)
  except text_format.ParseError as error:
    line = f"line {error.GetLine()}: " if error.GetLine() else ""
    # The message starts with "line:column : "; the rest says what is wrong.
    reason = str(error).split(" : ", 1)[-1].replace("\n", " ").rstrip(".")
    name = config.DESCRIPTOR.name
    raise errors.InputError(
      f"text of {name}", f"{line}{reason}", path
    ) from None
