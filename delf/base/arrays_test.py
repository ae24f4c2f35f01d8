import io

import numpy as np
import pytest

from delf.base import arrays, errors
from delf.base import arrays as base_arrays


@pytest.mark.parametrize("limit", [1, 5, 1 << 16, (1 << 16) + 1, 1 << 40])
def test_equal_numbers_stay_in_order(limit):
  keys = np.random.default_rng(0).integers(0, limit, 3000)
  keys[[5, 70]] = limit - 1
  order = arrays.stable_argsort(keys)
  pairs = list(zip(keys[order].tolist(), order.tolist(), strict=True))
  assert pairs == sorted(zip(keys.tolist(), range(3000), strict=True))


def test_nothing_to_order():
  assert arrays.stable_argsort(np.zeros([0], np.int64)).shape == (0,)


def _npz(**arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def _npy():
  buffer = io.BytesIO()
  np.save(buffer, np.ones(3))
  return buffer.getvalue()


def test_arrays_come_back(tmp_path):
  path = tmp_path / "a.npz"
  path.write_bytes(_npz(a=np.arange(3), b=np.ones(2)))
  arrays = base_arrays.read_npz(path, "numbers", ["a"])
  assert set(arrays) == {"a", "b"}
  assert arrays["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"text",
    _npz(a=np.ones(99))[:200],
    _npz(b=np.ones(1)),
    _npz(a=np.array([{}], object)),
    _npy(),
  ],
  ids=["empty", "text", "cut", "without a", "objects", "one array"],
)
def test_other_files_are_named(tmp_path, data):
  path = tmp_path / "a.npz"
  path.write_bytes(data)
  with pytest.raises(errors.InputError, match="not numbers") as error:
    base_arrays.read_npz(path, "numbers", ["a"])
  assert str(path) in str(error.value)
