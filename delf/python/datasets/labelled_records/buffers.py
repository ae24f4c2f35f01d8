"""Memory of batches, used again when nobody has it any more."""

import sys
import threading

import numpy as np

# TensorFlow takes over arrays that start at a multiple of it, else copies them.
_ALIGNMENT = 64
# The most arrays that are kept: what is made ahead, and what a trainer holds.
_KEPT = 8
# References to an array that only the list of arrays has: from the list, from
# the loop over it, and from the call that counts.
_FREE = 3


class Buffers:
  """Arrays of one shape.

  New memory is handed out by the system page by page and cleared, which takes
  as long as resizing the photos that go there.
  """

  def __init__(self, shape):
    """Creates it; `shape` is that of the arrays, of float32."""
    self._shape = tuple(shape)
    self._bytes = 4 * int(np.prod(shape))
    self._owners = []
    self._lock = threading.Lock()

  def get(self):
    """Returns a float32 array whose values are any.

    It is the caller's for as long as anything refers to it or to a part of it.
    """
    with self._lock:
      # A view of a view refers to the owner of the memory, so that the owner's
      # references are all there are.
      for owner in self._owners:
        if sys.getrefcount(owner) == _FREE:
          return self._view(owner)
      owner = np.empty([self._bytes + _ALIGNMENT], np.uint8)
      if len(self._owners) < _KEPT:
        self._owners.append(owner)
      return self._view(owner)

  def _view(self, owner):
    start = -owner.ctypes.data % _ALIGNMENT
    return np.ndarray(self._shape, np.float32, owner, start)
