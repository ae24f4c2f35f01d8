"""Images of a list, loaded on request."""

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from delf.base import concurrency
from delf.python.datasets.utils import default_loader


class ImagesFromList:
  """Images of a list, indexable; iteration loads ahead in threads."""

  def __init__(
    self,
    root: str,
    image_paths: Sequence[str],
    imsize: int | None = None,
    bounding_boxes: Sequence[tuple | None] | None = None,
    loader: Callable = default_loader,
    workers: int = 4,
  ):
    """Take paths relative to `root`; nothing is loaded.

    Args:
      imsize: Largest side of an image, in pixels; None keeps the size.
      bounding_boxes: Crop (x1, y1, x2, y2) of each image, in pixels, or None.
      loader: Function `loader(path, imsize, bounding_box)`, returns an image.
      workers: Threads that load ahead during iteration, or 0.
    """
    self.root = root
    self.images = [os.path.join(root, path) for path in image_paths]
    self.imsize = imsize
    self.bounding_boxes = bounding_boxes
    self.loader = loader
    self.workers = workers

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> np.ndarray:
    """Return an image of the loader, [H, W, 3] float32 by default."""
    boxes = self.bounding_boxes
    box = None if boxes is None else boxes[index]
    return self.loader(self.images[index], self.imsize, box)

  def __iter__(self) -> Iterator[np.ndarray]:
    load, numbers = self.__getitem__, range(len(self))
    return concurrency.map_ahead(load, numbers, self.workers, self.workers + 1)

  def __repr__(self) -> str:
    return f"{len(self)} images of {self.root or 'paths'}, size {self.imsize}"
