"""Extraction of local and global features from images."""

import dataclasses
import os
import pathlib

import numpy as np
from absl import logging

from delf.base import arrays, errors
from delf.formats import configs, features, network_files
from delf.inference import tensors, zoo
from delf.python import datum_io, utils


def load(path, device=None):
  """Loads an extraction model.

  TensorFlow is loaded for a SavedModel alone.

  Args:
    path: Folder of a SavedModel, or a `.onnx` or `.tflite` file of
      `delf export`.
    device: As in `devices.resolve`.

  Returns:
    saved_model.ExtractionModel or single_file.SingleFileModel.

  Raises:
    FileNotFoundError: If there is nothing at the path.
    InputError: If it is something else, or cannot be read, or the package that
      runs it is not installed, or there is no such device.
  """
  path = pathlib.Path(path)
  if not network_files.is_network(path) or path.is_dir():
    from delf.inference import saved_model

    return saved_model.load(path, device)
  if path.suffix.lower() == network_files.ONNX:
    from delf.inference import single_file as runtime
  else:
    from delf.inference import single_file as runtime

  return runtime.load(path, device)


@dataclasses.dataclass(frozen=True)
class PcaParameters:
  """What a projection needs, cut to the components that are kept.

  Attributes:
    mean: [D] float32.
    matrix: [dim, D] float32, one component a row, the largest first.
    variances: [dim] float32 of the components, or None without whitening.
  """

  mean: np.ndarray
  matrix: np.ndarray
  variances: np.ndarray | None = None

  @property
  def dim(self):
    """Number of components that are kept."""
    return len(self.matrix)

  @property
  def use_whitening(self):
    """Whether projections are divided by their standard deviations."""
    return self.variances is not None


def load_pca(pca_parameters_proto):
  """Reads the files that a configuration names.

  Args:
    pca_parameters_proto: DelfPcaParameters.

  Returns:
    PcaParameters.

  Raises:
    FileNotFoundError: If a file is missing.
    InputError: If a file is not a DatumProto, holds what is not finite, or the
      shapes do not fit each other or `pca_dim`; it names the file.
  """
  proto = pca_parameters_proto
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


class Moments:
  """Sums of descriptors, from which components are computed at the end.

  Descriptors may come in any number of parts; [D, D] float64 is in memory.
  """

  def __init__(self):
    self.number = 0
    self._first = self._sum = self._products = None

  def add(self, descriptors):
    """Adds descriptors, [N, D] float, finite."""
    if not len(descriptors):
      return
    descriptors = np.asarray(descriptors, dtype=np.float64)
    if self._first is None:
      # Near the mean, so that the difference of large sums keeps its digits.
      self._first = descriptors.mean(axis=0)
      self._sum = np.zeros_like(self._first)
      self._products = np.zeros([len(self._first)] * 2)
    moved = descriptors - self._first
    self.number += len(moved)
    self._sum += moved.sum(axis=0)
    self._products += moved.T @ moved

  def parameters(self):
    """Returns PcaParameters with all D components and their variances.

    The largest value of a component is positive, as its sign is free.

    Raises:
      InputError: If there are no more than D descriptors, which leave some
        direction without variance.
    """
    size = 0 if self._first is None else len(self._first)
    if self.number <= size:
      raise errors.InputError(
        f"more descriptors than their dimension, {size or 'D'}",
        f"{self.number}",
      )
    mean = self._sum / self.number
    covariance = self._products / self.number - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    matrix = directions[:, ::-1].T
    largest = np.abs(matrix).argmax(axis=1)[:, np.newaxis]
    matrix = matrix * np.sign(np.take_along_axis(matrix, largest, axis=1))
    return PcaParameters(
      (self._first + mean).astype(np.float32),
      matrix.astype(np.float32),
      np.maximum(variances[::-1], 0).astype(np.float32),
    )


def project(descriptors, mean, components, variances=None):
  """Projects descriptors; for NumPy arrays and TensorFlow's tensors alike.

  Args:
    descriptors: [N, D] float.
    mean: [D] float.
    components: [D, dim] float, one component a column.
    variances: [dim] float to whiten by, or None.

  Returns:
    [N, dim]: (descriptors - mean) @ components, with whitening over the square
    root of the variances (Jegou & Chum, ECCV 2012).
  """
  projected = (descriptors - mean) @ components
  return projected if variances is None else projected / variances**0.5


def _read(path, what, shape):
  """Reads a `.datum` file; None in `shape` stands for any number."""
  array = datum_io.ReadFromFile(path).astype(np.float32)
  fits = len(shape) == array.ndim and all(
    wanted in (None, size)
    for wanted, size in zip(shape, array.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    raise errors.InputError(
      f"{what}, shape [{wanted}]", f"shape {list(array.shape)}", path
    )
  return arrays.check_finite(array, f"numbers of {what}", path)


# Images that are smaller in a dimension have no features.
MIN_SIZE = 10


def make_extractor(config, device=None):
  """Makes what extracts features as a configuration says.

  Args:
    config: DelfConfig. `model_path` is a folder or a name (see `zoo.resolve`),
      or a `.onnx` or `.tflite` file of `delf export`, for which TensorFlow is
      not loaded. Whether the model is of TensorFlow 1 or 2 shows in the model;
      `is_tf2_exported` is not needed. `delf_local_config.iou_threshold` has
      no effect: how much boxes may overlap was set when the model was exported.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.

  Returns:
    Extractor.

  Raises:
    FileNotFoundError: If the model or a PCA file is missing.
    InputError: If the configuration cannot be, or the model does not have what
      it asks for.
  """
  configs.check_delf_config(config)
  model = load(zoo.resolve(config.model_path), device)
  return Extractor(config, model)


class Extractor:
  """Extracts features of images; safe to call from several threads.

  Attributes:
    config: DelfConfig, a copy.
    device: Words for the device in use, such as "CPU" or "GPU:0 (name)".
  """

  def __init__(self, config, model):
    """Prepares a model for a configuration; see `make_extractor`.

    Args:
      config: DelfConfig.
      model: saved_model.ExtractionModel or single_file.SingleFileModel.
    """
    self.config = type(config)()
    self.config.CopyFrom(config)
    self.device = model.device_words
    self._model = model
    self._local_pca = self._global_pca = None
    if config.use_local_features:
      self._local_pca = _load_pca(config.delf_local_config)
      self._check_pca("local", self._local_pca, self._size_of("features"))
      _warn_of_overlap(config.delf_local_config)
    if config.use_global_features:
      self._global_pca = _load_pca(config.delf_global_config)
      size = self._size_of(*tensors.GLOBAL_OUTPUTS)
      self._check_pca("global", self._global_pca, size)
    request = _request(config)
    self._run = model.prepare(request)
    self._run_batch = model.prepare(request, batch=True)

  def extract(self, image, resize_factor=1.0):
    """Extracts the features of an image.

    Args:
      image: [H, W, 3] uint8, RGB.
      resize_factor: What the size limits of the configuration are multiplied
        by; for a crop its longer side over that of the image.

    Returns:
      features.ImageFeatures. Locations are in pixels of `image`, or of the
      resized one with `use_resized_coordinates`. An image that is under 10
      pixels high or wide after resizing has no local features, and None as
      global descriptor.

    Raises:
      InputError: If it is no such image, or the model gives what is not a
        finite number.
    """
    resized, factors = utils.ResizeImage(image, self.config, resize_factor)
    if min(resized.shape[:2]) < MIN_SIZE:
      return self._nothing()
    return self._finish(self._run(resized), factors)

  def extract_batch(self, images, resize_factor=1.0):
    """Extracts the features of images of one size, in one go where possible.

    The result is that of `extract` but for the rounding of float32: values
    differ by less than 1e-5 of the largest, and features whose attention is
    equal up to that may change places.

    Args:
      images: list of [H, W, 3] uint8, all of one size.
      resize_factor: As for `extract`.

    Returns:
      list of features.ImageFeatures.

    Raises:
      InputError: As for `extract`, or if sizes differ.
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
    if self._local_pca is not None:
      dimension = self._local_pca.dim
    else:
      dimension = self._size_of("features") or 0
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
      descriptor = self._finish_global(arrays["global_descriptors"])
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

  def _finish_global(self, descriptors):
    """Returns [D] float32: the descriptors of all scales, summed, of norm 1."""
    self._check_pca("global", self._global_pca, descriptors.shape[1])
    summed = _descriptors(descriptors, self._global_pca).sum(axis=0)
    return tensors.l2_normalized(summed)

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


def _request(config):
  """Returns the tensors.Request of a configuration."""
  local = config.delf_local_config
  scales = tuple(config.image_scales)
  indices = None
  if config.use_global_features:
    # Unset stands for all scales.
    chosen = config.delf_global_config.image_scales_ind
    indices = tuple(chosen) or tuple(range(len(scales)))
  return tensors.Request(
    image_scales=scales,
    use_local=config.use_local_features,
    max_feature_num=local.max_feature_num,
    abs_thres=local.score_threshold,
    global_scales=indices,
  )


def _load_pca(config):
  """Returns the pca.PcaParameters of one part, or None."""
  if not config.use_pca:
    return None
  parameters = type(config.pca_parameters)()
  parameters.CopyFrom(config.pca_parameters)
  for field, path in parameters.ListFields():
    if field.name.endswith("_path"):
      setattr(parameters, field.name, os.fspath(zoo.local_path(path)))
  return load_pca(parameters)


def _descriptors(values, projection):
  """Returns descriptors as `feature_extractor.PostProcessDescriptors` does.

  That is TensorFlow code, for which this is too little work, and which models
  in other files do without.
  """
  values = tensors.l2_normalized(values)
  if projection is None:
    return values
  projected = project(
    values, projection.mean, projection.matrix.T, projection.variances
  )
  return tensors.l2_normalized(projected)


def _warn_of_overlap(config):
  if config.iou_threshold != 1.0:
    logging.warning(
      "iou_threshold %g has no effect: it is set when a model is exported.",
      config.iou_threshold,
    )
