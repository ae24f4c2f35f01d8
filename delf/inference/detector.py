"""Detectors of boxes in images, whichever way they were exported."""

import os
import pathlib
import typing

import numpy as np
import tensorflow as tf
from PIL import Image

from delf.base import boxes, errors
from delf.inference import saved_model, tensors, zoo


def load(
  path_or_name: str | os.PathLike, device: str | None = None
) -> "Detector":
  """Load a detector onto a device such as "cpu" or "gpu:1".

  It is the folder of a SavedModel, a TensorFlow 1 graph or one with a
  signature, or a name (see `zoo.resolve`).
  """
  folder = zoo.resolve(path_or_name)
  return Detector(folder, *saved_model.read(folder, device))


class Detector:
  """Finds boxes in images; safe to call from several threads.

  Images are scaled to the size of a model that has a fixed one.
  """

  def __init__(self, folder: pathlib.Path, loaded: typing.Any, device: str):
    self.folder = folder
    self.device = saved_model.describe(device)  # Such as "GPU:0 (name)".
    self._device = device
    names = (tensors.IMAGES, *tensors.DETECTIONS)
    found = saved_model.graph_tensors(loaded, names)
    # Run by a signature; graphs of TensorFlow 1 by the names of their tensors.
    self.is_tf2 = set(found) != set(names)
    if self.is_tf2:
      self._function = loaded.signatures.get(saved_model.DEFAULT)
      found, outputs = saved_model.specs_of(self._function)
      others = set(found) - {tensors.IMAGES}
      found |= outputs
      if set(names) - set(found) or others:
        raise errors.InputError(
          f"a detector with the tensors {', '.join(names)}",
          ", ".join(sorted(found)) or "one with none of them",
          folder,
        )
    else:
      self._function = saved_model.prune(
        loaded, [tensors.IMAGES], tensors.DETECTIONS
      )
    self._shape = found[tensors.IMAGES].shape
    if self._shape.rank not in (None, 4):
      raise errors.InputError(
        f"a detector whose {tensors.IMAGES} is [B, H, W, 3]",
        f"{self._shape}",
        folder,
      )

  def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Run the model on images [B, H, W, 3] uint8, RGB.

    Returns boxes [B, M, 4] float32, scores [B, M] and classes [B, M], often
    filled up with boxes of no area.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
      raise errors.InputError(
        "images as uint8 of shape [B, H, W, 3]",
        f"{images.dtype} of shape {list(images.shape)}",
      )
    images = self._scale(images)
    if not self._shape.is_compatible_with(images.shape):
      raise errors.InputError(
        f"images of shape {self._shape}, as the detector takes",
        f"shape {list(images.shape)}",
        self.folder,
      )
    values = {tensors.IMAGES: tf.constant(images)}
    found = saved_model.call(
      self._function, self._device, self.folder, **values
    )
    return tuple(found[name].numpy() for name in tensors.DETECTIONS)

  def _scale(self, images):
    """Returns images in the height and width that the model is fixed to."""
    if not self._shape.rank or not images.size:
      return images
    height, width = (
      fixed or given
      for fixed, given in zip(self._shape[1:3], images.shape[1:3], strict=True)
    )
    if (height, width) == images.shape[1:3]:
      return images
    size, how = (width, height), Image.Resampling.BILINEAR
    scaled = [Image.fromarray(image).resize(size, how) for image in images]
    return np.stack(list(map(np.asarray, scaled)))

  def detect(self, images: np.ndarray) -> list[boxes.Detections]:
    """Find the boxes in images of one size, [B, H, W, 3] uint8, RGB.

    They are in the model's order, without invalid ones (`make_detections`).
    """
    images = np.asarray(images)
    if self._shape.rank and self._shape[0] == 1 and len(images) > 1:
      # A model of one image at a time.
      return [self.detect(image[None])[0] for image in images]
    found = self.run(images)
    if any(array.shape[:1] != images.shape[:1] for array in found):
      shapes = ", ".join(f"{list(array.shape)}" for array in found)
      raise errors.InputError(
        f"{', '.join(tensors.DETECTIONS)} of each of {len(images)} images",
        f"shapes {shapes}",
        self.folder,
      )
    return [
      boxes.make_detections(*each, self.folder)
      for each in zip(*found, strict=True)
    ]
