"""Configurations, read from text and checked."""

import math

from google.protobuf import text_format

from delf.base import errors, files
from delf.protos import aggregation_config_pb2, delf_config_pb2


def read_delf_config(path):
  """Reads an extraction configuration and checks it.

  Args:
    path: Path of a DelfConfig in protobuf's text format. As in the original, a
      field that stands twice has the later value.

  Returns:
    DelfConfig. Paths in it are left as they are.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it has a field or a value that cannot be.
  """
  config = _read(path, delf_config_pb2.DelfConfig())
  check_delf_config(config, path)
  return config


def read_local_config(path):
  """Reads the configuration of an extraction of local features alone.

  Args:
    path: As in `read_delf_config`.

  Returns:
    DelfConfig, that of global features switched off.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: As `read_delf_config`, or if it is without local features.
  """
  config = read_delf_config(path)
  _require(
    config.use_local_features,
    "a configuration with use_local_features",
    "one without",
    path,
  )
  config.use_global_features = False
  return config


def parse_delf_config(text, path=None):
  """Returns a DelfConfig of text, checked; see `read_delf_config`.

  Args:
    text: str in protobuf's text format.
    path: Where it comes from, for the error, or None.
  """
  config = _merge(text, delf_config_pb2.DelfConfig(), path)
  check_delf_config(config, path)
  return config


def read_aggregation_config(path):
  """Reads an aggregation configuration and checks it.

  Args:
    path: Path of an AggregationConfig in protobuf's text format.

  Returns:
    AggregationConfig.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it has a field or a value that cannot be.
  """
  config = _read(path, aggregation_config_pb2.AggregationConfig())
  check_aggregation_config(config, path)
  return config


def check_aggregation_config(config, path=None):
  """Checks the values of an aggregation configuration; opens no file.

  Args:
    config: AggregationConfig.
    path: File that it was read from, for the error, or None.

  Raises:
    InputError: If a value cannot be; it names the field.
  """
  _require(
    config.aggregation_type != config.INVALID,
    "aggregation_type VLAD, ASMK or ASMK_STAR",
    "INVALID",
    path,
  )
  for name in ("codebook_size", "feature_dimensionality", "num_assignments"):
    value = getattr(config, name)
    _require(value > 0, f"a positive {name}", value, path)
  _require(
    config.num_assignments <= config.codebook_size,
    f"num_assignments up to codebook_size, {config.codebook_size}",
    config.num_assignments,
    path,
  )
  _require(config.codebook_path, "a codebook_path", "none", path)


def check_delf_config(config, path=None):
  """Checks the values of an extraction configuration.

  What the configuration does not use (a head that is off) is not checked, and
  no file that it names is opened: models of global features may have scales of
  their own, so that none are needed here.

  Args:
    config: DelfConfig.
    path: File that it was read from, for the error, or None.

  Raises:
    InputError: If a value cannot be; it names the field.
  """
  _require(config.model_path, "a model_path", "none", path)
  _require(
    config.use_local_features or config.use_global_features,
    "use_local_features or use_global_features",
    "neither",
    path,
  )
  _require(
    config.image_scales or not config.use_local_features,
    "image_scales, at least one, for local features",
    "none",
    path,
  )
  for scale in config.image_scales:
    _require(
      scale > 0 and math.isfinite(scale), "positive image_scales", scale, path
    )
  # Below 0 there is no limit; a min_image_size of 0 is none either.
  _require(
    config.max_image_size,
    "a max_image_size over 0, or -1 for none",
    config.max_image_size,
    path,
  )
  if config.use_local_features:
    _check_local(config.delf_local_config, path)
  if config.use_global_features:
    _check_global(config, path)


def _check_local(config, path):
  _require(
    0 <= config.iou_threshold <= 1,
    "an iou_threshold from 0 to 1",
    config.iou_threshold,
    path,
  )
  _require(
    config.max_feature_num >= 0,
    "a max_feature_num of at least 0",
    config.max_feature_num,
    path,
  )
  _require(
    not math.isnan(config.score_threshold),
    "a number as score_threshold",
    config.score_threshold,
    path,
  )
  _check_pca("delf_local_config", config, path)


def _check_global(config, path):
  number = len(config.image_scales)
  chosen = config.delf_global_config.image_scales_ind
  _require(
    number or not chosen,
    "image_scales for image_scales_ind to choose from",
    "none",
    path,
  )
  for index in chosen:
    _require(
      0 <= index < number,
      f"image_scales_ind from 0 to {number - 1} ({number} image_scales)",
      index,
      path,
    )
  _check_pca("delf_global_config", config.delf_global_config, path)


def _check_pca(name, config, path):
  """Checks the PCA of one head; `use_pca` is on where it is not set."""
  if not config.use_pca:
    return
  pca = config.pca_parameters
  needed = ["mean_path", "projection_matrix_path"]
  if pca.use_whitening:
    needed.append("pca_variances_path")
  for field in needed:
    _require(
      getattr(pca, field),
      f"{name}.pca_parameters.{field}, or {name}.use_pca: false",
      "none",
      path,
    )
  _require(
    pca.pca_dim > 0,
    f"a positive {name}.pca_parameters.pca_dim",
    pca.pca_dim,
    path,
  )


def _read(path, config):
  """Merges the text of a file into `config`."""
  name = config.DESCRIPTOR.name
  try:
    text = files.read_bytes(path).decode("utf-8")
  except UnicodeDecodeError:
    raise errors.InputError(f"text of {name}", "binary data", path) from None
  return _merge(text, config, path)


def _merge(text, config, path):
  name = config.DESCRIPTOR.name
  try:
    return text_format.Merge(text, config)
  except text_format.ParseError as error:
    line = f"line {error.GetLine()}: " if error.GetLine() else ""
    # The message starts with "line:column : "; the rest says what is wrong.
    reason = str(error).split(" : ", 1)[-1].replace("\n", " ").rstrip(".")
    raise errors.InputError(
      f"text of {name}", f"{line}{reason}", path
    ) from None


def _require(condition, expected, received, path):
  if not condition:
    raise errors.InputError(expected, received, path)
