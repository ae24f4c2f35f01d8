"""Memory of batches, used again when nobody has it any more."""

import threading

import numpy as np

# TensorFlow takes over arrays that start at a multiple of it, else copies them.
_ALIGNMENT = 64
# The most pieces of memory that are kept: what is made ahead, and what a
# trainer holds.
_KEPT = 8


class Buffers:
  """Arrays of one shape.

  New memory is handed out by the system page by page and cleared, which takes
  as long as resizing the photos that go there.
  """

  def __init__(self, shape):
    """Creates it; `shape` is that of the arrays, of float32."""
    self._shape = tuple(shape)
    self._bytes = 4 * int(np.prod(shape))
    self._free = []
    self._lock = threading.RLock()  # A thread may end a loan while it has it.

  def get(self):
    """Returns a float32 array whose values are any.

    It is the caller's for as long as anything refers to it or to a part of it.
    """
    with self._lock:
      memory = self._free.pop() if self._free else None
    if memory is None:
      memory = np.empty([self._bytes + _ALIGNMENT], np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    array = np.ndarray(self._shape, np.float32, memory, start)
    return np.asarray(_Loan(self, memory, array))

  def take_back(self, memory):
    """Keeps memory that nobody has any more, if there is not enough of it."""
    with self._lock:
      if len(self._free) < _KEPT:
        self._free.append(memory)


class _Loan:
  """What arrays that are handed out refer to; the memory returns with it.

  NumPy goes through it to what it is of, so that each array and each part of
  one refers to this object, not to the memory.
  """

  def __init__(self, buffers, memory, array):
    self._buffers, self._memory = buffers, memory
    self.__array_interface__ = array.__array_interface__

  def __del__(self):
    self._buffers.take_back(self._memory)
