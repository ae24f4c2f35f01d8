import collections
import contextlib
import os
import pickle
import pickletools

import numpy as np
import pytest

from delf.base import errors
from delf.formats import untrusted

_PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class _Runs:
  """Writes a file when it is unpickled."""

  def __init__(self, call):
    self.call = call

  def __reduce__(self):
    return self.call


def _write(path, content, protocol=2):
  path.write_bytes(pickle.dumps(content, protocol))
  return path


def _same(found, expected):
  assert type(found) is type(expected)
  if isinstance(expected, dict):
    assert list(found) == list(expected)
    for key in expected:
      _same(found[key], expected[key])
  elif isinstance(expected, (list, tuple)):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
      _same(one, other)
  elif isinstance(expected, np.ndarray):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
  else:
    assert found == expected


@pytest.mark.parametrize("protocol", _PROTOCOLS)
def test_plain_data_is_read(protocol, tmp_path):
  shared = [1, 2]
  content = {
    "text": "bâtiment",
    "bytes": b"\0\xff",
    "numbers": (1, -2.5, True, None, 2**70),
    "lists": [shared, shared, [], {}],
    "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "names": np.array(["a", "bcd"]),
    "flags": np.array([True, False]),
    "empty": np.zeros([0, 4]),
    "number": np.float64(1.5),
    "whole": np.int32(7),
  }
  found = untrusted.read_plain_pickle(
    _write(tmp_path / "a.pkl", content, protocol)
  )
  _same(found, content)
  assert found["lists"][0] is found["lists"][1]


def test_pickles_of_python_2_are_read(tmp_path):
  # An array's bytes, and names, are byte strings there.
  path = tmp_path / "a.pkl"
  path.write_bytes(
    b"(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n"
    b"(I0\ntp3\nS'b'\np4\ntp5\nRp6\n(I1\n(I2\ntp7\ncnumpy\ndtype\np8\n(S'i2'\n"
    b"p9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\n"
    b"S'\\x01\\x00\\xff\\x00'\np14\ntp15\nbaS'caf\\xe9'\np16\na."
  )
  array, name = untrusted.read_plain_pickle(path)
  np.testing.assert_array_equal(array, np.array([1, 255], np.int16))
  assert name == "café"


@pytest.mark.parametrize("protocol", _PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, os.mkdir])
def test_code_is_not_run(function, protocol, tmp_path):
  made = tmp_path / "made"
  argument = {
    os.system: f"touch {made}",
    eval: f"open({str(made)!r}, 'w')",
    os.mkdir: str(made),
  }[function]
  content = {"imlist": [_Runs((function, (argument,)))]}
  path = _write(tmp_path / "a.pkl", content, protocol)
  with pytest.raises(errors.InputError) as error:
    untrusted.read_plain_pickle(path)
  assert not made.exists()
  assert function.__name__ in str(error.value)
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  "content",
  [
    np.array([{}], object),
    np.zeros([2], [("a", "i4")]),
    np.dtype("i4"),
    np.ndarray,
    np.array(["2020-01-01"], "M8[D]"),
    {1, 2},
    {(1, 2): 3},
    collections.OrderedDict(a=1),
    len,
  ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_is_not_plain_is_refused(content, protocol, tmp_path):
  path = _write(tmp_path / "a.pkl", [content], protocol)
  if content is np.ndarray:
    assert untrusted.read_plain_pickle(path) == ["ndarray"]  # A word for it.
    return
  with pytest.raises(errors.InputError, match="a.pkl"):
    untrusted.read_plain_pickle(path)


def test_what_a_pickle_does_to_a_name_does_not_stay(tmp_path):
  # Sets an attribute of the function that stands for numpy's.
  path = tmp_path / "a.pkl"
  path.write_bytes(
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x01\0\0\0aK\x01s\x86b."
  )
  with pytest.raises(errors.InputError):
    untrusted.read_plain_pickle(path)
  array = np.arange(3)
  _same(untrusted.read_plain_pickle(_write(tmp_path / "b.pkl", array)), array)


def test_deep_and_circular_data_is_refused(tmp_path):
  deep = []
  for _ in range(200):
    deep = [deep]
  circle = []
  circle.append(circle)
  for content in (deep, circle):
    with pytest.raises(errors.InputError):
      untrusted.read_plain_pickle(_write(tmp_path / "a.pkl", content))


def test_lists_of_the_same_lists_are_read_once(tmp_path):
  many = [1]
  for _ in range(60):
    many = [many, many]
  found = untrusted.read_plain_pickle(_write(tmp_path / "a.pkl", many))
  assert found[0] is found[1]


def test_sizes_in_the_file_do_not_reserve_memory(tmp_path):
  path = tmp_path / "a.pkl"
  for data in (
    b"\x80\x04]r\xff\xff\xff\x7f.",  # A place in the memo.
    b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # A byte array.
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",  # Bytes.
  ):
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match="a.pkl"):
      untrusted.read_plain_pickle(path)


def test_large_files_are_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(untrusted, "MAX_BYTES", 100)
  with pytest.raises(errors.InputError, match="more than 100 bytes"):
    untrusted.read_plain_pickle(_write(tmp_path / "a.pkl", b"\0" * 101))


def test_damaged_pickles_end_in_one_line(tmp_path):
  content = {"a": [1, "b"], "c": np.arange(5), "d": np.float64(3)}
  path = tmp_path / "a.pkl"
  generator = np.random.default_rng(1)
  for protocol in (0, 2, 4):
    whole = bytearray(pickle.dumps(content, protocol))
    assert pickletools.optimize(bytes(whole))
    for _ in range(300):
      data = whole.copy()
      data[generator.integers(len(data))] = generator.integers(256)
      path.write_bytes(data[: generator.integers(1, 2 * len(data))])
      with contextlib.suppress(errors.InputError):
        untrusted.read_plain_pickle(path)


def test_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="a.pkl"):
    untrusted.read_plain_pickle(tmp_path / "a.pkl")
