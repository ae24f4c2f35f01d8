"""Stream of batches of photos, each a pure function of its number."""

import dataclasses
import threading
from collections.abc import Sequence
from concurrent import futures

import cv2
import numpy as np

from delf.base import concurrency, errors
from delf.records import tfrecord

# TensorFlow does not copy arrays that start at a multiple of it.
_ALIGNMENT = 64
# Most free arrays to keep: those prepared ahead, and those of the trainer.
_KEPT = 8


class Buffers:
  """Reused float32 arrays of one shape.

  Fresh memory is cleared by the system page by page, which takes as long as
  resizing photos into it.
  """

  def __init__(self, shape: Sequence[int]):
    self._shape = tuple(shape)
    self._bytes = 4 * int(np.prod(shape))
    self._free: list[np.ndarray] = []
    self._lock = threading.RLock()  # Its holder may end a loan.

  def get(self) -> np.ndarray:
    """Return an array of arbitrary values, reused after its last reference."""
    with self._lock:
      memory = self._free.pop() if self._free else None
    if memory is None:
      memory = np.empty([self._bytes + _ALIGNMENT], np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    array = np.ndarray(self._shape, np.float32, memory, start)
    return np.asarray(_Loan(self, memory, array))

  def take_back(self, memory: np.ndarray) -> None:
    """Keep memory that is no longer used, up to a limit."""
    with self._lock:
      if len(self._free) < _KEPT:
        self._free.append(memory)


class _Loan:
  """Owner of an array in use; views refer to it, and it returns the memory."""

  def __init__(self, buffers, memory, array):
    self._buffers, self._memory = buffers, memory
    self.__array_interface__ = array.__array_interface__

  def __del__(self) -> None:
    self._buffers.take_back(self._memory)


# Range of a crop's fraction of the photo's area, and of width / height. Source:
# the settings of DELF's training; C. Szegedy et al., "Going deeper with
# convolutions", CVPR 2015.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
# (x - 128) / 128, as in DELF's extraction and training. Exact in float32.
_NORMALISED = ((np.arange(256) - 128) / 128).astype(np.float32)


def draw(seed: int, first: int, number: int) -> np.ndarray:
  """Draw [number, 4] random numbers in [0, 1) for images from `first` on.

  Those of an image depend only on its position and the seed, under 2^64.
  """
  # Blocks of this generator have four numbers; its counter counts blocks.
  generator = np.random.Philox(key=seed, counter=first)
  return np.random.Generator(generator).random([number, 4])


def window(
  height: int, width: int, random: np.ndarray
) -> tuple[int, int, int, int]:
  """Choose a random crop (y, x, height, width), given [4] numbers in [0, 1).

  Aspect, height and position are uniform, as in TensorFlow's
  `sample_distorted_bounding_box`, which the original uses. Photos too elongated
  for a crop are returned whole.
  """
  aspect = _ASPECT[0] + (_ASPECT[1] - _ASPECT[0]) * random[0]
  least, most = (np.sqrt(a * height * width / aspect) for a in _AREA)
  least = max(1, int(np.ceil(least)))
  most = int(min(most, height, width / aspect))
  if most < least:
    return 0, 0, height, width
  crop_height = least + int((most - least + 1) * random[1])
  crop_width = min(max(1, round(crop_height * aspect)), width)
  y = int((height - crop_height + 1) * random[2])
  x = int((width - crop_width + 1) * random[3])
  return y, x, crop_height, crop_width


def to_network(image: np.ndarray, size: int, out: np.ndarray) -> None:
  """Convert a photo, [H, W, 3] uint8 BGR, to the input of a network.

  It is normalised, then resized as by `tf.image.resize` (bilinear, without
  antialiasing) into `out`, [size, size, 3] float32 RGB.
  """
  image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
  image = cv2.LUT(image, _NORMALISED)
  cv2.resize(image, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)


# Images per task of a thread.
_PIECE = 4


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of a stream of batches of square images."""

  image_size: int = 321  # Side of the images in pixels.
  batch_size: int = 32
  augmentation: bool = False  # Random crops instead of whole photos.
  seed: int = 0  # Of the order and of the crops.
  num_classes: int | None = None  # Labels must be below it; None: any.
  # Endless, with a random order per epoch; else one epoch in the files' order.
  repeat: bool = True

  def __post_init__(self) -> None:
    for name in ("image_size", "batch_size"):
      if (value := getattr(self, name)) < 1:
        raise errors.InputError(f"{name} must be 1 or more, not {value}")
    if not 0 <= self.seed < 2**64:
      raise errors.InputError(f"seed must be in [0, 2^64), not {self.seed}")


class Stream:
  """Batches of a list of records.

  Images depend on the records, the seed and their position only, so that
  several threads can make batches in any order.
  """

  def __init__(self, records: tfrecord.RecordFiles, options: Options):
    self.options = options
    self._records = records
    self._orders: dict[int, np.ndarray] = {}
    self._lock = threading.Lock()
    side = options.image_size
    self._buffers = Buffers([options.batch_size, side, side, 3])

  def __len__(self) -> int:
    """Return the number of batches of an epoch; the last may be short."""
    return -(-len(self._records) // self.options.batch_size)

  def identities(self, number: int) -> list[str]:
    """Return the ids of the records of batch `number`, from 0."""
    return [
      tfrecord.parse(self._records.read(i), self._records.path(i))[2]
      for i in self._chosen(int(number))
    ]

  def _chosen(self, number):
    """Return the numbers of the records of a batch, [B] int."""
    size = self.options.batch_size
    first = number * size
    if not self.options.repeat:
      return np.arange(first, min(first + size, len(self._records)))
    positions = np.arange(first, first + size)
    epochs, indices = np.divmod(positions, len(self._records))
    chosen = np.empty_like(indices)
    for epoch in np.unique(epochs):
      here = epochs == epoch
      chosen[here] = self._order(int(epoch))[indices[here]]
    return chosen

  def _order(self, epoch):
    with self._lock:
      if epoch not in self._orders:
        for old in sorted(self._orders)[:-1]:
          del self._orders[old]  # 16 MB for four million records.
        random = np.random.Philox(key=[self.options.seed, epoch])
        order = np.random.Generator(random).permutation(len(self._records))
        self._orders[epoch] = order.astype(np.uint32)
      return self._orders[epoch]

  def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of batch `number`, from 0.

    Images are [B, S, S, 3] float32 RGB in [-1, 1), labels [B] int64.
    """
    first = int(number) * self.options.batch_size
    chosen = self._chosen(int(number))
    size = len(chosen)
    images = self._buffers.get()[:size]
    labels = np.empty([size], np.int64)
    random = draw(self.options.seed, first, size)

    def fill(start):
      for i in range(start, min(start + _PIECE, size)):
        labels[i] = self._image(chosen[i], random[i], images[i])

    # Threads end with the call, since TensorFlow keeps the function of a data
    # set, and with it the stream, until the process ends.
    with futures.ThreadPoolExecutor(concurrency.core_count()) as pool:
      list(pool.map(fill, range(0, size, _PIECE)))
    return images, labels

  def _image(self, record, random, out):
    path = self._records.path(record)
    data, label, identity = tfrecord.parse(
      self._records.read(record), path, self.options.num_classes
    )
    image = tfrecord.decode(data, path, identity)
    if self.options.augmentation:
      y, x, height, width = window(image.shape[0], image.shape[1], random)
      image = image[y : y + height, x : x + width]
    to_network(image, self.options.image_size, out)
    return label
