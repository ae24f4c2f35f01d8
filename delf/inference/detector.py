"""Box detectors of TensorFlow 1 and 2."""

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from delf.base import boxes, errors
from delf.inference import saved_model, tensors, zoo


def load(
  path_or_name: str | os.PathLike, device: str | None = None
) -> "Detector":
  """Load a detector onto a device such as "cpu" or "gpu:1".

  It is a SavedModel with a signature or a TensorFlow 1 graph, or the name of a
  known model (see `zoo.resolve`).
  """
  folder = zoo.resolve(path_or_name)
  return Detector(folder, *saved_model.read(folder, device))


class Detector:
  """Detector of boxes in images; safe to call from several threads.

  Images are resized for a model with a fixed input size.
  """

  def __init__(self, folder: pathlib.Path, loaded: Any, device: str):
    self.folder = folder
    self.device = saved_model.describe(device)  # "GPU:0 (name)", for example.
    self._device = device
    names = (tensors.IMAGES, *tensors.DETECTIONS)
    specs = saved_model.graph_tensors(loaded, names)
    # TensorFlow 2 runs a signature, TensorFlow 1 a graph with named tensors.
    self.is_tf2 = set(specs) != set(names)
    if self.is_tf2:
      self._function = loaded.signatures.get(saved_model.DEFAULT)
      specs, outputs = saved_model.specs_of(self._function)
      other_inputs = set(specs) - {tensors.IMAGES}
      specs |= outputs
      if set(names) - set(specs) or other_inputs:
        raise errors.InputError(
          f"a detector needs the tensors {', '.join(names)}, but this model has"
          f" {', '.join(sorted(specs)) or 'none of them'}",
          path=folder,
        )
    else:
      ends = [tensors.IMAGES], tensors.DETECTIONS
      self._function = saved_model.prune(loaded, *ends)
    self._shape = specs[tensors.IMAGES].shape
    if self._shape.rank not in (None, 4):
      message = f"{tensors.IMAGES} must be [B, H, W, 3], not {self._shape}"
      raise errors.InputError(message, path=folder)

  def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run the model on images [B, H, W, 3] uint8, RGB.

    Returns boxes [B, M, 4] float32, scores [B, M] and classes [B, M], often
    padded with boxes without area.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
      actual = f"{images.dtype} of shape {list(images.shape)}"
      message = f"images must be uint8 of shape [B, H, W, 3], not {actual}"
      raise errors.InputError(message)
    images = self._resize(images)
    if not self._shape.is_compatible_with(images.shape):
      message = f"images must be {self._shape}, not {list(images.shape)}"
      raise errors.InputError(message, path=self.folder)
    values = {tensors.IMAGES: tf.constant(images)}
    place = self._device, self.folder
    outputs = saved_model.call(self._function, *place, **values)
    return tuple(outputs[name].numpy() for name in tensors.DETECTIONS)

  def _resize(self, images: np.ndarray) -> np.ndarray:
    """Resizes images to the fixed height and width of the model, if any."""
    if not self._shape.rank or not images.size:
      return images
    height, width = (
      fixed or size
      for fixed, size in zip(self._shape[1:3], images.shape[1:3], strict=True)
    )
    if (height, width) == images.shape[1:3]:
      return images
    size, method = (width, height), Image.Resampling.BILINEAR
    resized = [Image.fromarray(image).resize(size, method) for image in images]
    return np.stack([np.asarray(image) for image in resized])

  def detect(self, images: np.ndarray) -> list[boxes.Detections]:
    """Detect boxes in images [B, H, W, 3] uint8, RGB, in the model's order."""
    images = np.asarray(images)
    if self._shape.rank and self._shape[0] == 1 and len(images) > 1:
      # The model takes one image at a time.
      return [self.detect(image[None])[0] for image in images]
    outputs = self.run(images)
    if any(array.shape[:1] != images.shape[:1] for array in outputs):
      shapes = ", ".join(f"{list(array.shape)}" for array in outputs)
      raise errors.InputError(
        f"the detector's {', '.join(tensors.DETECTIONS)} must have a row for"
        f" each of {len(images)} images, but their shapes are {shapes}",
        path=self.folder,
      )
    return [
      boxes.make_detections(corners, scores, classes, self.folder)
      for corners, scores, classes in zip(*outputs, strict=True)
    ]
