"""Descriptors of many images, of which a block is held at a time."""

import numpy as np
from absl import logging

from delf.python import errors, progress
from delf.python.datasets import generic_dataset

# Images of a block.
SIZE = 1024


def describe(paths, load, network, workers, label, source):
  """Describes images in blocks; one that cannot be read is reported.

  Args:
    paths: list of paths.
    load: Function of a path that returns an image, [H, W, 3] float32.
    network: Function of images [1, H, W, 3] float32 that returns [1, D].
    workers: Threads that load images ahead.
    label: Words of the progress.
    source: Path of the file that lists the images, for an error.

  Yields:
    [n, D] float32, of `SIZE` images but for the last block; NaN of an image
    that cannot be read.

  Raises:
    InputError: If none of the first block can be read.
  """
  futures = generic_dataset.ahead(load, paths, workers)
  block, size = [], None
  shown = progress.track(futures, label, len(paths))
  for path, future in zip(paths, shown, strict=True):
    try:
      vector = np.asarray(network(future.result()[None]), np.float32)[0]
    except (errors.InputError, OSError) as error:
      # Of a photo that is too small for the network, it does not say which.
      logging.warning("left out %s: %s", path, errors.one_line(error))
      vector = None
    size = size if vector is None else len(vector)
    block.append(vector)
    if len(block) == SIZE:
      yield _stacked(block, size, source)
      block = []
  if block:
    yield _stacked(block, size, source)


def _stacked(block, size, source):
  if size is None:
    raise errors.InputError(
      "images that can be read", f"none among {len(block)}", source
    )
  missing = np.full([size], np.nan, np.float32)
  return np.stack([missing if each is None else each for each in block])
