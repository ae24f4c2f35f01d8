"""Images of a list, loaded when they are asked for."""

import collections
import concurrent.futures
import itertools
import os

from delf.python.datasets.utils import default_loader


class ImagesFromList:
  """The images of a list: indexable, with a length, and iterable.

  Iterating loads the next images in threads while one is used.

  Attributes:
    root: Folder of the images.
    images: list of str, their paths.
    imsize: Largest side of an image in pixels, or None.
    bounding_boxes: list of (x1, y1, x2, y2) in pixels to crop to, or None.
    loader: Function that loads an image.
    workers: Number of threads.
  """

  def __init__(
    self,
    root,
    image_paths,
    imsize=None,
    bounding_boxes=None,
    loader=default_loader,
    workers=4,
  ):
    """Takes the list; nothing is loaded.

    Args:
      root: Folder that the paths start from; "" for paths that stand alone.
      image_paths: list of paths.
      imsize: Largest side of an image, in pixels; None leaves it.
      bounding_boxes: A box (x1, y1, x2, y2) or None for each image, in pixels;
        None for whole images.
      loader: Function `loader(path, imsize, bounding_box)` that returns an
        image, as `utils.default_loader` does.
      workers: Threads that load ahead when iterating; 0 for none.
    """
    self.root = root
    self.images = [os.path.join(root, path) for path in image_paths]
    self.imsize = imsize
    self.bounding_boxes = bounding_boxes
    self.loader = loader
    self.workers = workers

  def __len__(self):
    """Returns the number of images."""
    return len(self.images)

  def __getitem__(self, index):
    """Returns what the loader gives for an image: [H, W, 3] float32.

    Raises:
      FileNotFoundError: If there is no such file.
      InputError: If it is no image.
      IndexError: If the list has no such entry.
    """
    boxes = self.bounding_boxes
    box = None if boxes is None else boxes[index]
    return self.loader(self.images[index], self.imsize, box)

  def __iter__(self):
    """Yields the images in order; errors are as of indexing."""
    for future in ahead(self.__getitem__, range(len(self)), self.workers):
      yield future.result()

  def __repr__(self):
    """Returns what it is a list of, as words."""
    return f"{len(self)} images of {self.root or 'paths'}, size {self.imsize}"


def ahead(function, items, workers):
  """Calls a function for each item in threads, and no further than they go.

  Args:
    function: Function of an item; may raise.
    items: Iterable.
    workers: Number of threads; so many results, and one more, are held. 0 calls
      it in the caller's thread.

  Yields:
    concurrent.futures.Future that is done, for each item in order.
  """
  if workers <= 0:
    for item in items:
      yield _done(function, item)
    return
  items = iter(items)
  pool = concurrent.futures.ThreadPoolExecutor(workers, "load")
  try:
    pending = collections.deque(
      pool.submit(function, item)
      for item in itertools.islice(items, workers + 1)
    )
    while pending:
      future = pending.popleft()
      concurrent.futures.wait([future])
      # Not earlier: what is held would be one more.
      yield future
      pending.extend(
        pool.submit(function, item) for item in itertools.islice(items, 1)
      )
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _done(function, item):
  future = concurrent.futures.Future()
  try:
    future.set_result(function(item))
  except Exception as error:
    future.set_exception(error)
  return future
