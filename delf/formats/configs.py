"""Reading and checking configurations in protobuf's text format."""

import math

from google.protobuf import message, text_format

from delf.base import errors, files
from delf.protos import aggregation_config_pb2, delf_config_pb2


def read_delf_config(path: files.Path) -> delf_config_pb2.DelfConfig:
  """Read and check an extraction configuration.

  As in the original, a later value of a field replaces an earlier one.
  """
  return parse_delf_config(files.read_bytes(path), path)


def read_local_config(path: files.Path) -> delf_config_pb2.DelfConfig:
  """Read a configuration and switch its global features off."""
  config = read_delf_config(path)
  if not config.use_local_features:
    raise errors.InputError("use_local_features must be on", path=path)
  config.use_global_features = False
  return config


def parse_delf_config(
  text: str | bytes, path: files.Path | None = None
) -> delf_config_pb2.DelfConfig:
  """Parse and check a DelfConfig, as `read_delf_config` does."""
  config = delf_config_pb2.DelfConfig()
  _merge(text, config, path)
  check_delf_config(config, path)
  return config


def read_aggregation_config(
  path: files.Path,
) -> aggregation_config_pb2.AggregationConfig:
  """Read and check an aggregation configuration."""
  config = aggregation_config_pb2.AggregationConfig()
  _merge(files.read_bytes(path), config, path)
  check_aggregation_config(config, path)
  return config


def check_aggregation_config(
  config: aggregation_config_pb2.AggregationConfig,
  path: files.Path | None = None,
) -> None:
  """Raise InputError about the first invalid field; open no file."""
  _raise_first(_aggregation_checks(config), path)


def check_delf_config(
  config: delf_config_pb2.DelfConfig, path: files.Path | None = None
) -> None:
  """Raise InputError about the first invalid field; open no file.

  Fields of a head that is off are not checked. Global features need no
  image_scales, as their models may have fixed ones.
  """
  _raise_first(_delf_checks(config), path)


def _raise_first(checks, path):
  """Raise InputError for the first (failed, problem) that has failed."""
  for failed, problem in checks:
    if failed:
      raise errors.InputError(problem, path=path)


def _aggregation_checks(config):
  problem = "Invalid aggregation type: aggregation_type must be VLAD, ASMK or"
  problem += " ASMK_STAR, not INVALID"
  yield config.aggregation_type == config.INVALID, problem
  for name in ("codebook_size", "feature_dimensionality", "num_assignments"):
    value = getattr(config, name)
    yield value <= 0, f"{name} must be over 0, not {value}"
  number, size = config.num_assignments, config.codebook_size
  problem = f"num_assignments is {number}, but codebook_size only {size}"
  yield number > size, problem
  yield not config.codebook_path, "codebook_path is missing"


def _delf_checks(config):
  use_local, use_global = config.use_local_features, config.use_global_features
  scales = config.image_scales
  yield not config.model_path, "model_path is missing"
  problem = "use_local_features and use_global_features are both off"
  yield not (use_local or use_global), problem
  problem = "local features need at least one of image_scales"
  yield use_local and not scales, problem
  for scale in scales:
    problem = f"image_scales must be positive and finite, not {scale}"
    yield not 0 < scale < math.inf, problem
  # A min_image_size up to 0 stands for no limit, too.
  problem = "max_image_size is 0: use a number over 0, or -1 for no limit"
  yield config.max_image_size == 0, problem
  if use_local:
    local = config.delf_local_config
    iou, most = local.iou_threshold, local.max_feature_num
    yield not 0 <= iou <= 1, f"iou_threshold must be from 0 to 1, not {iou}"
    yield most < 0, f"max_feature_num must be at least 0, not {most}"
    is_nan = math.isnan(local.score_threshold)
    yield is_nan, "score_threshold must be a number, not nan"
    yield from _pca_checks("delf_local_config", local)
  if use_global:
    for index in config.delf_global_config.image_scales_ind:
      yield not scales, "image_scales_ind needs image_scales to select from"
      problem = (
        f"image_scales_ind must be from 0 to {len(scales) - 1}, for"
        f" {len(scales)} image_scales, not {index}"
      )
      yield not 0 <= index < len(scales), problem
    yield from _pca_checks("delf_global_config", config.delf_global_config)


def _pca_checks(name, config):
  """Check the PCA of one head; `use_pca` is true by default."""
  if not config.use_pca:
    return
  pca = config.pca_parameters
  fields = ["mean_path", "projection_matrix_path"]
  if pca.use_whitening:
    fields.append("pca_variances_path")
  for field in fields:
    option = f"{name}.pca_parameters.{field}"
    problem = f"{option} is missing: set it, or {name}.use_pca: false"
    yield not getattr(pca, field), problem
  problem = f"{name}.pca_parameters.pca_dim must be over 0, not {pca.pca_dim}"
  yield pca.pca_dim <= 0, problem


def _merge(text: str | bytes, config: message.Message, path):
  name = config.DESCRIPTOR.name
  try:
    text_format.Merge(text, config)
  except UnicodeDecodeError:
    raise errors.InputError(f"binary data, not a {name}", path=path) from None
  except text_format.ParseError as error:
    line = f"line {error.GetLine()}: " if error.GetLine() else ""
    # The message is "line:column : reason".
    reason = str(error).split(" : ", 1)[-1].replace("\n", " ").rstrip(".")
    problem = f"not a valid {name}: {line}{reason}"
    raise errors.InputError(problem, path=path) from None
