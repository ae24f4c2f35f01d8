import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from delf.base import errors
from delf.formats import array_file

_KIND = "test index"


def _arrays():
  random = np.random.default_rng(1)
  return {
    "floats": random.normal(size=(50, 7)).astype(np.float32),
    "bits": random.integers(0, 256, (33, 16), dtype=np.uint8),
    "none": np.zeros([0, 5], np.int32),
    "scalar": np.array(5, np.int64),
    "lanes": random.integers(0, 2**63, 11).astype(np.uint64),
  }


def _write(path, **changes):
  array_file.write(path, _KIND, {"alpha": 3.0, "of": "ä"}, _arrays() | changes)
  return path


def _with_header(path, text, **changes):
  """Writes a file whose header is the text, right in all but what changes."""
  size = changes.get("size", 40 + len(text))
  lengths = struct.pack("<QQ", changes.get("length", len(text)), size)
  checksum = zlib.crc32(text, zlib.crc32(lengths))
  start = struct.pack(
    "<8sII", b"\x89delf\r\n\x1a", changes.get("version", 1), checksum
  )
  path.write_bytes(start + lengths + text + bytes(8))
  return path


def test_round_trip(tmp_path):
  path = _write(tmp_path / "new" / "a.index")
  header, arrays = array_file.read(path, _KIND, verify=True)
  assert header == {"alpha": 3.0, "of": "ä"}
  assert list(arrays) == list(_arrays())
  for name, expected in _arrays().items():
    found = arrays[name]
    assert isinstance(found, np.memmap) or not found.size
    assert not found.flags.writeable
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)
    assert found.ctypes.data % 64 == 0 or not found.size
  assert os.listdir(path.parent) == ["a.index"]


def test_streams_and_other_layouts(tmp_path):
  whole = np.arange(60, dtype=np.int32).reshape(20, 3)
  stream = array_file.Stream(
    np.int32, (20, 3), (whole[i : i + 7] for i in range(0, 20, 7))
  )
  path = _write(
    tmp_path / "a",
    floats=stream,
    bits=whole.T,
    lanes=whole.astype(">i4"),
    scalar=whole[::2],
  )
  _, arrays = array_file.read(path, _KIND, verify=True)
  assert np.array_equal(arrays["floats"], whole)
  assert np.array_equal(arrays["bits"], whole.T)
  assert np.array_equal(arrays["lanes"], whole)
  assert np.array_equal(arrays["scalar"], whole[::2])


def test_replaced_while_open(tmp_path):
  path = _write(tmp_path / "a")
  _, before = array_file.read(path, _KIND)
  array_file.write(path, _KIND, {}, {"floats": np.zeros([3])})
  assert np.array_equal(before["floats"], _arrays()["floats"])
  assert array_file.read(path, _KIND)[0] == {}


@pytest.mark.parametrize(
  "stream",
  [
    array_file.Stream(np.int32, (3,), [np.zeros([2], np.int32)]),
    array_file.Stream(np.int32, (3,), [np.zeros([4], np.int32)]),
    array_file.Stream(np.int32, (3,), iter(lambda: 1 // 0, 1)),
    np.array(["text"]),
    np.array([None]),
  ],
)
def test_failed_write_leaves_what_was(tmp_path, stream):
  path = _write(tmp_path / "a")
  before = path.read_bytes()
  with pytest.raises((errors.InputError, ZeroDivisionError)):
    _write(path, lanes=stream)
  assert path.read_bytes() == before
  assert os.listdir(tmp_path) == ["a"]


def test_cut_anywhere(tmp_path):
  data = _write(tmp_path / "a").read_bytes()
  path = tmp_path / "cut"
  for length in [*range(0, 600, 7), len(data) - 1]:
    path.write_bytes(data[:length])
    with pytest.raises(
      errors.InputError, match="cut: damaged index|not an index"
    ):
      array_file.read(path, _KIND)
  path.write_bytes(data + b"\0")
  with pytest.raises(errors.InputError, match="whole index"):
    array_file.read(path, _KIND)


def test_changed_anywhere(tmp_path):
  data = bytearray(_write(tmp_path / "a").read_bytes())
  table, size = array_file.read_table(tmp_path / "a")
  padding = set(range(size))
  header_end = 32 + struct.unpack("<Q", data[16:24])[0]
  padding -= set(range(header_end))
  for entry in table["arrays"]:
    end = entry["offset"] + array_file.array_bytes(entry)
    padding -= set(range(entry["offset"], end))
  path = tmp_path / "changed"
  for place in [*range(0, header_end, 5), *range(header_end, size, 41)]:
    changed = bytearray(data)
    changed[place] ^= 4
    path.write_bytes(changed)
    if place in padding:
      array_file.read(path, _KIND, verify=True)
      continue
    with pytest.raises(errors.InputError, match="changed: "):
      array_file.read(path, _KIND, verify=True)


def test_another_file(tmp_path):
  path = tmp_path / "a.jpg"
  path.write_bytes(b"\xff\xd8" * 100)
  assert not array_file.is_index(path)
  assert not array_file.is_index(tmp_path / "none")
  with pytest.raises(errors.InputError, match="a.jpg: not an index file"):
    array_file.read(path, _KIND)
  with pytest.raises(errors.InputError, match="a folder"):
    array_file.read(tmp_path, _KIND)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    array_file.read(tmp_path / "nowhere", _KIND)
  with pytest.raises(errors.InputError, match="'test index'"):
    array_file.read(_write(tmp_path / "b"), "other index")
  with pytest.raises(errors.InputError, match="gs://"):
    array_file.write("gs://bucket/a", _KIND, {}, {})


def test_newer_version(tmp_path):
  path = _with_header(tmp_path / "a", b"anything", version=2)
  with pytest.raises(errors.InputError, match="written by a newer delf"):
    array_file.read(path, _KIND)


def _entry(**changes):
  entry = {
    "name": "x",
    "dtype": "<f4",
    "shape": [1],
    "offset": f"{64:016x}",
    "crc32": "0" * 8,
  }
  return entry | changes


@pytest.mark.parametrize(
  "table",
  [
    [],
    5,
    {"kind": _KIND, "header": {}},
    {"kind": _KIND, "header": [], "arrays": []},
    {"kind": 5, "header": {}, "arrays": []},
    {"kind": _KIND, "header": {}, "arrays": 5},
    {"kind": _KIND, "header": {}, "arrays": [5]},
    *(
      {"kind": _KIND, "header": {}, "arrays": [entry]}
      for entry in [
        {},
        _entry(shape=[2**62]),
        _entry(shape=[2**40, 2**40]),
        _entry(shape=[-1]),
        _entry(shape=[True]),
        _entry(shape=[0.5]),
        _entry(shape=5),
        _entry(shape=[1] * 40),
        _entry(dtype="O"),
        _entry(dtype="|O8"),
        _entry(dtype=[]),
        _entry(offset="-40"),
        _entry(offset="1"),
        _entry(offset="0"),
        _entry(offset="f" * 16),
        _entry(offset=64),
        _entry(name=5),
        _entry(crc32=5),
      ]
    ),
    {"kind": _KIND, "header": {}, "arrays": [_entry()] * 2},
  ],
)
def test_hostile_table(tmp_path, table):
  path = _with_header(tmp_path / "a", json.dumps(table).encode())
  with pytest.raises(
    errors.InputError, match="a: damaged index: invalid table"
  ):
    array_file.read(path, _KIND)


@pytest.mark.parametrize(
  "text", [b"", b"\xff", b"{" * 10, b"[" * 100_000, b"1" * 10_000]
)
def test_hostile_text(tmp_path, text):
  path = _with_header(tmp_path / "a", text)
  with pytest.raises(errors.InputError):
    array_file.read(path, _KIND)


@pytest.mark.parametrize("length", [49, 1 << 30, 2**63])
def test_hostile_length(tmp_path, length):
  path = _with_header(tmp_path / "a", b"{}", length=length, size=42)
  with pytest.raises(errors.InputError, match="header"):
    array_file.read(path, _KIND)


def test_names():
  names = ["", "ä/b.jpg", "", "a" * 300, os.fsdecode(b"\xff.jpg"), "\n\0"]
  arrays = array_file.encode_names(names)
  assert array_file.decode_names(arrays) == names
  assert array_file.decode_names(array_file.encode_names([])) == []
  many = [f"image_{i}" for i in range(200_000)]
  assert array_file.decode_names(array_file.encode_names(many)) == many


@pytest.mark.parametrize("names", [[5], [None], [b"a"], ["\ud800"]])
def test_names_that_are_none(names):
  with pytest.raises(errors.InputError, match="names must be text"):
    array_file.encode_names(names)


@pytest.mark.parametrize(
  "change",
  [
    {"name_ends": np.array([1, 9])},
    {"name_ends": np.array([1])},
    {"name_ends": np.array([3, 2, 4])},
    {"name_ends": np.array([-1, 4])},
    {"name_ends": np.zeros([2, 2], np.int64)},
    {"name_ends": np.array([0.5, 4])},
    {"names": np.zeros([4], np.int32)},
    {"names": np.zeros([2, 2], np.uint8)},
  ],
)
def test_names_that_do_not_fit(change):
  arrays = array_file.encode_names(["ab", "cd"]) | change
  with pytest.raises(
    errors.InputError, match="b.index: damaged index: .*names"
  ):
    array_file.decode_names(arrays, "b.index")


def test_describe(tmp_path):
  found = array_file.describe(_write(tmp_path / "a"))
  json.dumps(found)
  assert found["kind"] == _KIND
  assert found["arrays"]["bits"] == {"dtype": "|u1", "shape": [33, 16]}
  assert found["bytes"] == (tmp_path / "a").stat().st_size
  assert array_file.is_index(tmp_path / "a")


_WRITER = """
import itertools, sys
import numpy as np
from delf.formats import array_file
for i in itertools.count():
  values = np.full([300_000], i, np.int64)
  array_file.write(sys.argv[1], "test index", {"of": i}, {"values": values})
  print(i, flush=True)
"""


def test_killed_while_writing(tmp_path):
  path = tmp_path / "a"
  root = pathlib.Path(__file__).resolve().parents[2]
  for delay in (0, 0.003, 0.011):
    writer = subprocess.Popen(
      [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, cwd=root
    )
    writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    header, arrays = array_file.read(path, _KIND, verify=True)
    assert np.all(arrays["values"] == header["of"])
