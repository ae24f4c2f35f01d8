"""Extraction of local and global features from images."""

import os

import numpy as np
from absl import logging

from delf.python import config_io, errors, features, pca, utils
from delf.python.inference import model_file, tensors, zoo

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
  config_io.check_delf_config(config)
  model = model_file.load(zoo.resolve(config.model_path), device)
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
  return pca.load_pca(parameters)


def _descriptors(values, projection):
  """Returns descriptors as `feature_extractor.PostProcessDescriptors` does.

  That is TensorFlow code, for which this is too little work, and which models
  in other files do without.
  """
  values = tensors.l2_normalized(values)
  if projection is None:
    return values
  projected = pca.project(
    values, projection.mean, projection.matrix.T, projection.variances
  )
  return tensors.l2_normalized(projected)


def _warn_of_overlap(config):
  if config.iou_threshold != 1.0:
    logging.warning(
      "iou_threshold %g has no effect: it is set when a model is exported.",
      config.iou_threshold,
    )
