"""A stream of batches of photos in which each batch is a pure function."""

import dataclasses
import os
import threading
from concurrent import futures

import numpy as np

from delf.python import errors
from delf.python.datasets.labelled_records import (
  buffers,
  crops,
  image_record,
)

# Images that a thread makes before it takes others.
_PIECE = 4


@dataclasses.dataclass(frozen=True)
class Options:
  """What the batches are made of.

  Attributes:
    image_size: Pixels of a side of each image.
    batch_size: Images of a batch.
    augmentation: Whether random crops are taken, else whole photos.
    seed: Of the order and of the crops, an int from 0.
    num_classes: Labels must be below it; None if they may be any.
    repeat: Whether the stream is endless, each epoch in a random order of its
      own; else it is one epoch, in the order of the files.
  """

  image_size: int = 321
  batch_size: int = 32
  augmentation: bool = False
  seed: int = 0
  num_classes: int | None = None
  repeat: bool = True

  def __post_init__(self):
    """Raises InputError if a number is not one that can be."""
    for name in ("image_size", "batch_size"):
      if getattr(self, name) < 1:
        raise errors.InputError(f"{name} of 1 or more", getattr(self, name))
    if not 0 <= self.seed < 2**64:
      raise errors.InputError("a seed from 0, under 2^64", self.seed)


class Stream:
  """Batches of a list of records.

  The image at a position is a function of the records, the seed and the
  position: of no other image, nor of the number of threads. Batches can be
  made in any order and by several threads at once.

  Attributes:
    options: Options.
  """

  def __init__(self, records, options):
    """Creates the stream.

    Args:
      records: record_files.RecordFiles.
      options: Options.
    """
    self.options = options
    self._records = records
    self._order = _Order(len(records), options)
    side = options.image_size
    self._buffers = buffers.Buffers([options.batch_size, side, side, 3])

  def __len__(self):
    """Returns the batches of an epoch; the last may be short."""
    return -(-len(self._records) // self.options.batch_size)

  def identities(self, number):
    """Returns the ids of the records of a batch, list of str.

    Args:
      number: Its number in the stream, from 0.
    """
    return [
      image_record.parse(self._records.read(i), self._records.path(i))[2]
      for i in self._chosen(int(number))
    ]

  def _chosen(self, number):
    """Returns which records a batch is of, [B] int."""
    size = self.options.batch_size
    first = number * size
    if not self.options.repeat:
      size = min(size, len(self._records) - first)
    return self._order.records(np.arange(first, first + size))

  def batch(self, number):
    """Makes a batch.

    Args:
      number: Its number in the stream, from 0.

    Returns:
      images [B, S, S, 3] float32, RGB, from -1, under 1, and labels [B] int64.

    Raises:
      InputError: If a record is damaged, of another kind, cannot be decoded, or
        has a label out of range; it names the file and the record.
    """
    first = int(number) * self.options.batch_size
    chosen = self._chosen(int(number))
    size = len(chosen)
    images = self._buffers.get()[:size]
    labels = np.empty([size], np.int64)
    random = crops.draw(self.options.seed, first, size)

    def fill(start):
      for i in range(start, min(start + _PIECE, size)):
        labels[i] = self._image(chosen[i], random[i], images[i])

    _in_threads(fill, range(0, size, _PIECE))
    return images, labels

  def _image(self, record, random, out):
    """Fills one image; returns its label."""
    path = self._records.path(record)
    data, label, identity = image_record.parse(
      self._records.read(record), path, self.options.num_classes
    )
    image = image_record.decode(data, path, identity)
    if self.options.augmentation:
      y, x, height, width = crops.window(*image.shape[:2], random)
      image = image[y : y + height, x : x + width]
    crops.to_network(image, self.options.image_size, out)
    return label


def _in_threads(function, items):
  """Calls a function for each item, in a thread of each core.

  The threads end with the call: TensorFlow keeps the function of a data set,
  and with it the stream, for as long as the process runs.

  Args:
    function: Function of an item; what it raises is raised here, when no thread
      is at work any more.
    items: Sequence.
  """
  threads = min(cores(), len(items))
  if threads < 2:
    for item in items:
      function(item)
    return
  with futures.ThreadPoolExecutor(threads) as pool:
    for _ in pool.map(function, items):
      pass


class _Order:
  """Which record stands at a position: of each epoch an order of its own."""

  def __init__(self, number, options):
    self._number, self._options = number, options
    self._lock = threading.Lock()
    self._orders = {}

  def records(self, positions):
    """Returns the record at each position, [N] int."""
    epochs, places = np.divmod(positions, self._number)
    if not self._options.repeat:
      return places
    chosen = np.empty_like(places)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      chosen[here] = self._permutation(int(epoch))[places[here]]
    return chosen

  def _permutation(self, epoch):
    with self._lock:
      if epoch not in self._orders:
        for old in sorted(self._orders)[:-1]:
          del self._orders[old]  # Of four million records each is 16 MB.
        generator = np.random.Generator(
          np.random.Philox(key=[self._options.seed, epoch])
        )
        order = generator.permutation(self._number)
        self._orders[epoch] = order.astype(np.uint32)
      return self._orders[epoch]


def cores():
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
