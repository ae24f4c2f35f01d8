import io

import numpy as np
import pytest

from delf.python import errors
from delf.python.training.self_supervised import array_file


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
  arrays = array_file.read(path, "numbers", ["a"])
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
  with pytest.raises(errors.InputError, match="expected numbers") as error:
    array_file.read(path, "numbers", ["a"])
  assert str(path) in str(error.value)
