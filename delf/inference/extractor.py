"""Extraction of local and global features from images."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from delf.base import arrays, errors
from delf.formats import configs, features, network_files
from delf.inference import tensors, zoo
from delf.protos import delf_config_pb2
from delf.python import datum_io, utils

# Smallest side of an image with features, in pixels.
MIN_SIZE = 10


def load(path: str | os.PathLike, device: str | None = None) -> Any:
  """Load an extraction model onto a device such as "cpu" or "gpu:1".

  Returns a `saved_model.ExtractionModel` for the folder of a SavedModel, or a
  `single_file.SingleFileModel`, without TensorFlow, for a `.onnx` or `.tflite`.
  """
  path = pathlib.Path(path)
  if network_files.is_network(path) and not path.is_dir():
    from delf.inference import single_file

    return single_file.load(path, device)
  from delf.inference import saved_model

  return saved_model.load(path, device)


@dataclasses.dataclass(frozen=True)
class PcaParameters:
  """A PCA projection, limited to the first `dim` components."""

  mean: np.ndarray  # [D] float32.
  matrix: np.ndarray  # [dim, D] float32, a component per row, largest first.
  variances: np.ndarray | None = None  # [dim] float32; None: no whitening.

  @property
  def dim(self) -> int:
    """Number of components."""
    return len(self.matrix)

  @property
  def use_whitening(self) -> bool:
    """Whether projections are divided by the standard deviations."""
    return self.variances is not None


def load_pca(proto: delf_config_pb2.DelfPcaParameters) -> PcaParameters:
  """Read the PCA files of a configuration.

  Raises InputError, with the path of the file, if it is not a DatumProto, has
  NaN or infinity, or its shape does not match the other files or `pca_dim`.
  """
  mean = _read(proto.mean_path, "the mean", [None])
  matrix = _read(
    proto.projection_matrix_path,
    f"the projection matrix for the mean in {proto.mean_path}",
    [None, len(mean)],
  )
  if not 0 < proto.pca_dim <= len(matrix):
    raise errors.InputError(
      f"pca_dim is {proto.pca_dim}, but the file has {len(matrix)} components:"
      f" use 1 to {len(matrix)}",
      path=proto.projection_matrix_path,
    )
  variances = None
  if proto.use_whitening:
    variances = _read(
      proto.pca_variances_path,
      f"the variances for the components in {proto.projection_matrix_path}",
      [len(matrix)],
    )[: proto.pca_dim]
    if not (variances > 0).all():
      message = f"variances must be over 0, not {variances.min()}"
      raise errors.InputError(message, path=proto.pca_variances_path)
  return PcaParameters(mean, matrix[: proto.pca_dim], variances)


def _read(path, name, shape):
  """Reads a `.datum` file and checks its shape, in which None is any size."""
  array = datum_io.ReadFromFile(path).astype(np.float32)
  tensors.check_shape(array, shape, name, path)
  return arrays.check_finite(array, f"numbers of {name}", path)


def project(
  descriptors: np.ndarray,
  mean: np.ndarray,
  components: np.ndarray,
  variances: np.ndarray | None = None,
) -> np.ndarray:
  """Project descriptors [N, D], arrays or tensors, onto components [D, dim].

  With variances [dim], the result [N, dim] is whitened, that is divided by
  their square roots (Jegou & Chum, ECCV 2012).
  """
  projected = (descriptors - mean) @ components
  return projected if variances is None else projected / variances**0.5


def make_extractor(
  config: delf_config_pb2.DelfConfig, device: str | None = None
) -> "Extractor":
  """Load the model of a configuration and prepare it for extraction.

  `model_path` may be a name (see `zoo.resolve`); `is_tf2_exported` and
  `iou_threshold` have no effect. Raises InputError if the configuration is
  invalid or the model lacks an output, FileNotFoundError for a missing file.
  """
  configs.check_delf_config(config)
  return Extractor(config, load(zoo.resolve(config.model_path), device))


class Extractor:
  """Feature extractor; safe to call from several threads."""

  def __init__(self, config: delf_config_pb2.DelfConfig, model: Any):
    self.config = type(config)()
    self.config.CopyFrom(config)
    self.device: str = model.device_label  # "CPU" or "GPU:0 (name)".
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
    scales = tuple(config.image_scales)
    indices: tuple[int, ...] | None = None
    if config.use_global_features:
      overall, outputs = config.delf_global_config, tensors.GLOBAL_OUTPUTS
      self._global_pca = self._load_pca("global", overall, *outputs)
      # All scales if unset.
      indices = tuple(overall.image_scales_ind) or tuple(range(len(scales)))
    limits = local.max_feature_num, local.score_threshold
    request = tensors.Request(
      scales, config.use_local_features, *limits, global_scales=indices
    )
    self._run = model.prepare(request)
    self._run_batch = model.prepare(request, batch=True)

  def _load_pca(self, part, config, *outputs):
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

    Locations are in pixels of the image, or of the resized image with
    `use_resized_coordinates`. An image with a side under 10 pixels after
    resizing has no local features, and None as global descriptor. Raises
    InputError if the image has another shape or type, or the model returns NaN.

    `resize_factor` multiplies the size limits of the configuration: for a crop,
    it is the crop's longer side divided by that of the image.
    """
    resized, factors = utils.ResizeImage(image, self.config, resize_factor)
    if min(resized.shape[:2]) < MIN_SIZE:
      return self._empty()
    return self._finish(self._run(resized), factors)

  def extract_batch(
    self, images: Sequence[np.ndarray], resize_factor: float = 1.0
  ) -> list[features.ImageFeatures]:
    """Extract the features of images of one size, in a batch where possible.

    Values differ from those of `extract` by less than 1e-5 of the largest, and
    features of nearly equal attention may swap places.
    """
    sizes = {np.shape(image)[:2] for image in images}
    if len(sizes) > 1:
      message = f"images of a batch must have one size, not {sorted(sizes)}"
      raise errors.InputError(message)
    if self._run_batch is None or len(images) < 2:
      return [self.extract(image, resize_factor) for image in images]
    pairs = [utils.ResizeImage(i, self.config, resize_factor) for i in images]
    resized, factors = zip(*pairs, strict=True)
    if min(resized[0].shape[:2]) < MIN_SIZE:
      return [self._empty() for _ in images]
    outputs = self._run_batch(np.stack(resized))
    return [self._finish(each, factors[0]) for each in outputs]

  def _empty(self):
    if not self.config.use_local_features:
      return features.ImageFeatures()
    pca = self._local_pca
    dimension = (self._size_of("features") or 0) if pca is None else pca.dim
    return features.ImageFeatures(features.LocalFeatures.empty(dimension))

  def _finish(self, outputs, factors):
    """Turns the model's outputs for one image into features."""
    for name, array in outputs.items():
      if not np.isfinite(array).all():
        raise errors.InputError(
          f"the model returned NaN or infinity in {name}: the image is too"
          " small at one of the scales, or the model is broken",
          path=self._model.folder,
        )
    local = descriptor = None
    if self.config.use_local_features:
      local = self._finish_local(outputs, factors)
    if self.config.use_global_features:
      per_scale = outputs["global_descriptors"]
      self._check_pca("global", self._global_pca, per_scale.shape[1])
      # The sum over the scales, normalised: [D] float32.
      summed = _descriptors(per_scale, self._global_pca).sum(axis=0)
      descriptor = tensors.l2_normalized(summed)
    return features.ImageFeatures(local, descriptor)

  def _finish_local(self, outputs, factors):
    size = outputs["features"].shape[1]
    self._check_pca("local", self._local_pca, size)
    boxes = outputs["boxes"]
    locations = (boxes[:, :2] + boxes[:, 2:]) / np.float32(2)
    if not self.config.delf_local_config.use_resized_coordinates:
      locations = (locations / factors).astype(np.float32)
    return features.LocalFeatures(
      locations=locations,
      scales=outputs["scales"],
      descriptors=_descriptors(outputs["features"], self._local_pca),
      attention=outputs["scores"],
    )

  def _size_of(self, *outputs):
    """Returns the last dimension of the first existing output, or None."""
    names = [name for name in outputs if name in self._model.outputs]
    return self._model.output_size(names[0]) if names else None

  def _check_pca(self, part, pca, size):
    """Raises InputError if a projection is for another descriptor size."""
    if pca is None or size in (None, len(pca.mean)):
      return
    raise errors.InputError(
      f"the model's {part} descriptors have size {size}, but the {part} PCA is"
      f" for size {len(pca.mean)}",
      path=self._model.folder,
    )


def _descriptors(values, pca):
  """Returns `feature_extractor.PostProcessDescriptors`, without TensorFlow."""
  values = tensors.l2_normalized(values)
  if pca is None:
    return values
  projected = project(values, pca.mean, pca.matrix.T, pca.variances)
  return tensors.l2_normalized(projected)
