"""Extraction of local and global features from images."""

import dataclasses
import os
import pathlib
import typing
from collections.abc import Sequence

import numpy as np
from absl import logging

from delf.base import arrays, errors
from delf.formats import configs, features, network_files
from delf.inference import tensors, zoo
from delf.protos import delf_config_pb2
from delf.python import datum_io, utils

# Images that are smaller in a dimension have no features.
MIN_SIZE = 10


def load(path: str | os.PathLike, device: str | None = None) -> typing.Any:
  """Load an extraction model, for a device such as "cpu" or "gpu:1".

  The path is a folder of a SavedModel, or a `.onnx` or `.tflite` file of
  `delf export`, for which TensorFlow is not loaded. Returns
  saved_model.ExtractionModel or single_file.SingleFileModel.
  """
  path = pathlib.Path(path)
  if network_files.is_network(path) and not path.is_dir():
    from delf.inference import single_file as models
  else:
    from delf.inference import saved_model as models

  return models.load(path, device)


@dataclasses.dataclass(frozen=True)
class PcaParameters:
  """A projection, cut to the components that are kept."""

  mean: np.ndarray  # [D] float32.
  matrix: np.ndarray  # [dim, D] float32, a component a row, largest first.
  variances: np.ndarray | None = None  # [dim] float32; None: no whitening.

  @property
  def dim(self) -> int:
    """Number of components that are kept."""
    return len(self.matrix)

  @property
  def use_whitening(self) -> bool:
    """Whether projections are divided by their standard deviations."""
    return self.variances is not None


def load_pca(proto: delf_config_pb2.DelfPcaParameters) -> PcaParameters:
  """Read the files that a configuration names.

  An InputError names a file that is no DatumProto, is not finite, or has a
  shape that does not fit the others or `pca_dim`.
  """
  mean = _read(proto.mean_path, "the mean", [None])
  size = len(mean)
  matrix = _read(
    proto.projection_matrix_path,
    f"a projection matrix for the mean [{size}] of {proto.mean_path}",
    [None, size],
  )
  if not 0 < proto.pca_dim <= len(matrix):
    raise errors.InputError(
      f"pca_dim from 1 to {len(matrix)}, the components in the file",
      f"pca_dim {proto.pca_dim}",
      proto.projection_matrix_path,
    )
  variances = None
  if proto.use_whitening:
    variances = _read(
      proto.pca_variances_path,
      f"variances of the components of {proto.projection_matrix_path}",
      [len(matrix)],
    )[: proto.pca_dim]
    if not (variances > 0).all():
      raise errors.InputError(
        "positive variances", f"{variances.min()}", proto.pca_variances_path
      )
  return PcaParameters(mean, matrix[: proto.pca_dim], variances)


def _read(path, what, shape):
  """Reads a `.datum` file; None in `shape` stands for any number."""
  array = datum_io.ReadFromFile(path).astype(np.float32)
  if len(shape) != array.ndim or any(
    wanted not in (None, size)
    for wanted, size in zip(shape, array.shape, strict=True)
  ):
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    raise errors.InputError(
      f"{what}, shape [{wanted}]", f"shape {list(array.shape)}", path
    )
  return arrays.check_finite(array, f"numbers of {what}", path)


def project(
  descriptors: np.ndarray,
  mean: np.ndarray,
  components: np.ndarray,
  variances: np.ndarray | None = None,
) -> np.ndarray:
  """Project descriptors [N, D], arrays or tensors, on components [D, dim].

  With variances [dim], the result [N, dim] is whitened: divided by their square
  roots (Jegou & Chum, ECCV 2012).
  """
  projected = (descriptors - mean) @ components
  return projected if variances is None else projected / variances**0.5


def make_extractor(
  config: delf_config_pb2.DelfConfig, device: str | None = None
) -> "Extractor":
  """Load the model of a configuration, and prepare it for extraction.

  `model_path` is as of `zoo.resolve`; `is_tf2_exported` and `iou_threshold`
  have no effect. InputError if the configuration is invalid, or the model lacks
  a part; FileNotFoundError if the model or a PCA file is missing.
  """
  configs.check_delf_config(config)
  return Extractor(config, load(zoo.resolve(config.model_path), device))


class Extractor:
  """Extracts features of images; safe to call from several threads."""

  def __init__(self, config: delf_config_pb2.DelfConfig, model: typing.Any):
    self.config = type(config)()
    self.config.CopyFrom(config)
    self.device = model.device_words  # Such as "CPU" or "GPU:0 (name)".
    self._model = model
    local = config.delf_local_config
    self._local_pca = self._global_pca = None
    if config.use_local_features:
      self._local_pca = self._load_pca("local", local, "features")
      if local.iou_threshold != 1.0:
        logging.warning(
          "iou_threshold %g has no effect: it is set when a model is exported.",
          local.iou_threshold,
        )
    scales, indices = tuple(config.image_scales), None
    if config.use_global_features:
      overall = config.delf_global_config
      self._global_pca = self._load_pca(
        "global", overall, *tensors.GLOBAL_OUTPUTS
      )
      # Unset stands for all scales.
      indices = tuple(overall.image_scales_ind) or tuple(range(len(scales)))
    request = tensors.Request(
      image_scales=scales,
      use_local=config.use_local_features,
      max_feature_num=local.max_feature_num,
      abs_thres=local.score_threshold,
      global_scales=indices,
    )
    self._run = model.prepare(request)
    self._run_batch = model.prepare(request, batch=True)

  def _load_pca(self, part, config, *outputs):
    """Returns the PCA of one part, checked with the model, or None."""
    if not config.use_pca:
      return None
    parameters = type(config.pca_parameters)()
    parameters.CopyFrom(config.pca_parameters)
    for field, path in parameters.ListFields():
      if field.name.endswith("_path"):
        setattr(parameters, field.name, os.fspath(zoo.local_path(path)))
    pca = load_pca(parameters)
    self._check_pca(part, pca, self._size_of(*outputs))
    return pca

  def extract(
    self, image: np.ndarray, resize_factor: float = 1.0
  ) -> features.ImageFeatures:
    """Extract the features of an image [H, W, 3] uint8, RGB.

    `resize_factor` is for the size limits: of a crop, its longer side over that
    of the image. Locations are in pixels of the image, or of the resized one if
    `use_resized_coordinates`. An image under 10 pixels a side after resizing
    has no local features, and None as global descriptor. InputError if it is no
    such image, or the model gives NaN or infinity.
    """
    resized, factors = utils.ResizeImage(image, self.config, resize_factor)
    if min(resized.shape[:2]) < MIN_SIZE:
      return self._nothing()
    return self._finish(self._run(resized), factors)

  def extract_batch(
    self, images: Sequence[np.ndarray], resize_factor: float = 1.0
  ) -> list[features.ImageFeatures]:
    """Extract the features of images of one size, at once where possible.

    Values differ from those of `extract` by less than 1e-5 of the largest, and
    features of nearly equal attention may change places.
    """
    sizes = {np.shape(image)[:2] for image in images}
    if len(sizes) > 1:
      raise errors.InputError("images of one size", f"sizes {sorted(sizes)}")
    if self._run_batch is None or len(images) < 2:
      return [self.extract(image, resize_factor) for image in images]
    resized, factors = zip(
      *(utils.ResizeImage(i, self.config, resize_factor) for i in images),
      strict=True,
    )
    if min(resized[0].shape[:2]) < MIN_SIZE:
      return [self._nothing() for _ in images]
    found = self._run_batch(np.stack(resized))
    return [self._finish(arrays, factors[0]) for arrays in found]

  def _nothing(self):
    if not self.config.use_local_features:
      return features.ImageFeatures()
    pca = self._local_pca
    dimension = (self._size_of("features") or 0) if pca is None else pca.dim
    return features.ImageFeatures(features.LocalFeatures.empty(dimension))

  def _finish(self, arrays, factors):
    """Turns what the model gave for one image into features."""
    for name, array in arrays.items():
      if not np.isfinite(array).all():
        raise errors.InputError(
          f"finite {name} of the model",
          "NaN or infinity, as of an image that is too small for it at one of"
          " the scales, or of a model that is broken",
          self._model.folder,
        )
    local = descriptor = None
    if self.config.use_local_features:
      local = self._finish_local(arrays, factors)
    if self.config.use_global_features:
      of_scales = arrays["global_descriptors"]
      self._check_pca("global", self._global_pca, of_scales.shape[1])
      # Summed over the scales, of norm 1: [D] float32.
      summed = _descriptors(of_scales, self._global_pca).sum(axis=0)
      descriptor = tensors.l2_normalized(summed)
    return features.ImageFeatures(local, descriptor)

  def _finish_local(self, arrays, factors):
    size = arrays["features"].shape[1]
    self._check_pca("local", self._local_pca, size)
    boxes = arrays["boxes"]
    locations = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    if not self.config.delf_local_config.use_resized_coordinates:
      locations = (locations / factors).astype(np.float32)
    return features.LocalFeatures(
      locations=locations,
      scales=arrays["scales"],
      descriptors=_descriptors(arrays["features"], self._local_pca),
      attention=arrays["scores"],
    )

  def _size_of(self, *outputs):
    """Returns the last dimension of the first output there is, or None."""
    for name in outputs:
      if name in self._model.outputs:
        return self._model.output_size(name)
    return None

  def _check_pca(self, part, projection, size):
    """Raises InputError if a projection is not for descriptors of a size."""
    if projection is None or size in (None, len(projection.mean)):
      return
    raise errors.InputError(
      f"{part} PCA parameters for descriptors of size {size}",
      f"some for size {len(projection.mean)}",
      self._model.folder,
    )


def _descriptors(values, pca):
  """`feature_extractor.PostProcessDescriptors` without TensorFlow."""
  values = tensors.l2_normalized(values)
  if pca is None:
    return values
  projected = project(values, pca.mean, pca.matrix.T, pca.variances)
  return tensors.l2_normalized(projected)
