import numpy as np

from delf.records import stream


def test_memory_is_used_again_when_nothing_refers_to_it():
  arrays = stream.Buffers([3, 5, 7])
  first = arrays.get()
  assert first.shape == (3, 5, 7) and first.dtype == np.float32
  address = first.ctypes.data
  assert address % 64 == 0
  second = arrays.get()
  assert not np.shares_memory(first, second)
  part = first[1:, ::2].reshape(-1)[3:]
  transposed = first.T[2]
  del first
  assert not np.shares_memory(transposed, arrays.get())
  assert arrays.get().ctypes.data != address
  del transposed, part
  assert arrays.get().ctypes.data == address


def test_any_number_may_be_held():
  arrays = stream.Buffers([2])
  held = [arrays.get() for _ in range(20)]
  for i, array in enumerate(held):
    array[:] = i
  assert [array[0] for array in held] == list(range(20))
