"""Extraction with a network in one file, for a runtime other than TensorFlow.

The file has the network of one scale; the pyramid of scales, the selection and
the pooling around it are NumPy code, for each runtime the same.
"""

import os
import pathlib

import numpy as np

from delf.python import errors, network_io
from delf.python.inference import pyramid, tensors

# An error of a runtime may go on; the first words say what happened.
_LONGEST_REASON = 300


class SingleFileModel:
  """A network and what its settings say is around it.

  It is used as `saved_model.ExtractionModel` is.

  Attributes:
    folder: pathlib.Path of the file.
    device_words: Words for what it runs on.
    inputs: Names of what extraction can set.
    outputs: Names of what it can ask for.
    signatures: None of those that SavedModels have: an empty list.
  """

  signatures = ()

  def __init__(self, path, settings, run, device_words="CPU"):
    """Wraps a network.

    Args:
      path: Of the file, for errors.
      settings: network_io.Settings.
      run: Function of images [1, h, w, 3] float32, normalised, and names of
        outputs (of `settings.outputs`) that returns a dict of them: attention
        [1, y, x, 1], features [1, y, x, D], offsets [1, y, x, 2], descriptor
        [1, D'].
      device_words: Words for what it runs on.
    """
    self.folder = pathlib.Path(path)
    self.device_words = device_words
    self._settings = settings
    self._network = run
    self._maps = [network_io.ATTENTION, network_io.FEATURES]
    if settings.has_offsets:
      self._maps.append(network_io.OFFSETS)
    self.inputs, self.outputs = _names(settings)

  def output_size(self, name):
    """Returns the last dimension of an output, or None if it is not known."""
    is_local = name in tensors.LOCAL_OUTPUTS
    return self._settings.local_size if is_local else self._settings.global_size

  def prepare(self, request, batch=False):
    """Finds what must run for a request; see `ExtractionModel.prepare`.

    Args:
      request: tensors.Request.
      batch: Whether for several images of one size, which there is not.

    Returns:
      Function of an image, [H, W, 3] uint8, as there; for a batch None.

    Raises:
      InputError: If the network lacks what the request needs, or it for the
        network; from the function, if an image is too small for it.
    """
    tensors.check(request, self.inputs, self.outputs, self.folder)
    if batch:
      return None

    def extract(image):
      tensors.check_size(image, self.inputs, request)
      arrays = self._extract(pyramid.normalised(image), request)
      return tensors.tidy(arrays, self.inputs, request)

    return extract

  def _extract(self, pixels, request):
    """Returns the arrays of one image, named as those of SavedModels."""
    settings = self._settings
    fixed = settings.input_scales
    scales = request.image_scales if fixed is None else fixed
    chosen = set(request.global_scales or ())
    if fixed is not None:
      chosen = set(range(len(fixed)))
    found, descriptors = [], []
    for index, scale in enumerate(scales):
      is_global = request.use_global and index in chosen
      if not (request.use_local or is_global):
        continue
      outputs = self._run(pyramid.resize(pixels, scale), request, is_global)
      if request.use_local:
        maps = [outputs[name] for name in self._maps]
        found.append(
          pyramid.candidates(maps, scale, request.abs_thres, settings.receptive)
        )
      if is_global:
        descriptors.append(outputs[network_io.DESCRIPTOR][0])
    arrays = {}
    if request.use_local:
      local = pyramid.select(found, request.max_feature_num, settings.iou)
      arrays |= local._asdict()
    if request.use_global:
      arrays |= self._pooled(np.stack(descriptors))
    return arrays

  def _run(self, images, request, is_global):
    """Runs the network for the parts that are asked for."""
    names = []
    if request.use_local:
      names += self._maps
    if is_global:
      names.append(network_io.DESCRIPTOR)
    try:
      outputs = self._network(images, names)
    except Exception as error:  # Runtimes raise whatever they have.
      reason = " ".join(str(error).split())[:_LONGEST_REASON]
      raise errors.InputError(
        "an image that the model takes", f"another ({reason})", self.folder
      ) from error
    _check_shapes(outputs, self.folder)
    return outputs

  def _pooled(self, descriptors):
    """Returns the global output of descriptors [G, D]."""
    settings = self._settings
    if settings.pool_type == "average":
      descriptors = descriptors.mean(axis=0)
    elif settings.pool_type == "sum":
      descriptors = descriptors.sum(axis=0)
    if settings.normalize:
      descriptors = tensors.l2_normalized(descriptors)
    name = tensors.GLOBAL_OUTPUTS[0 if settings.pool_type == "None" else 1]
    return {name: descriptors}


def _check_shapes(outputs, path):
  """Raises InputError if outputs are not maps of one size, or a descriptor."""
  shapes = {name: np.shape(value) for name, value in outputs.items()}
  rows, columns, *_ = (*shapes.get(network_io.ATTENTION, ())[1:3], 0, 0)
  wanted = {
    network_io.ATTENTION: (1, rows, columns, 1),
    network_io.FEATURES: (1, rows, columns, None),
    network_io.OFFSETS: (1, rows, columns, 2),
    network_io.DESCRIPTOR: (1, None),
  }
  for name, shape in shapes.items():
    fits = len(shape) == len(wanted[name]) and all(
      one in (None, other)
      for one, other in zip(wanted[name], shape, strict=True)
    )
    if not fits:
      words = ", ".join("any" if n is None else str(n) for n in wanted[name])
      raise errors.InputError(f"{name} of shape [{words}]", list(shape), path)


def _names(settings):
  """Returns names of inputs and outputs, as the SavedModel would have them."""
  inputs, outputs = [tensors.IMAGE], []
  if settings.input_scales is None:
    inputs.append(tensors.SCALES)
  if settings.form != network_io.GLOBAL:
    inputs += [tensors.THRESHOLD, tensors.MOST]
    outputs += tensors.LOCAL_OUTPUTS
  if settings.form != network_io.LOCAL:
    if settings.input_scales is None:
      inputs.append(tensors.INDICES)
    pooled = settings.pool_type != "None"
    outputs.append(tensors.GLOBAL_OUTPUTS[1 if pooled else 0])
  return inputs, outputs


def number_of_threads():
  """Returns how many processors a runtime may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
