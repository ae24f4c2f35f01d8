import json
import os

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from delf.base import errors
from delf.formats import wire
from delf.protos import datum_pb2
from delf.python import datum_io
from tests.stand_ins import npz

# Where the original is wrong and this library differs, with the reason.
_OVERRIDDEN = {"datum/u64_wrap": "uint64 that does not fit is refused"}


def _index(goldens, prefix):
  cases = json.loads((goldens / "io_index.json").read_text())
  return {k: v for k, v in cases.items() if k.startswith(f"{prefix}/")}


def _npz(goldens, case):
  return npz.read(goldens / f"io_{case.replace('/', '_')}.npz")


def _check_same(found, expected):
  assert found.dtype == expected.dtype
  assert found.shape == expected.shape
  np.testing.assert_array_equal(found, expected)


def test_goldens_of_arrays(goldens, tmp_path):
  checked = 0
  for case, record in _index(goldens, "datum").items():
    if record["write"] != "ok":
      dtype = record["in_dtype"]
      with pytest.raises(ValueError, match=dtype):
        datum_io.SerializeToString(np.ones([2], dtype=dtype))
    elif case in _OVERRIDDEN:
      with pytest.raises(errors.InputError, match="4294967295"):
        datum_io.SerializeToString(_npz(goldens, case)["in_array"])
    else:
      golden = _npz(goldens, case)
      path = tmp_path / "a.datum"
      datum_io.WriteToFile(golden["in_array"], path)
      assert path.read_bytes() == golden["bytes"].tobytes(), case
      _check_same(datum_io.ReadFromFile(path), golden["out_array"])
      datum = datum_io.ArrayToDatum(golden["in_array"])
      assert datum.SerializeToString() == golden["bytes"].tobytes()
      _check_same(datum_io.DatumToArray(datum), golden["out_array"])
    checked += 1
  assert checked == 21


def test_goldens_of_pairs(goldens, tmp_path):
  checked = 0
  for case in _index(goldens, "pair"):
    golden = _npz(goldens, case)
    arrays = golden["in_first"], golden["in_second"]
    path = tmp_path / "a.datum"
    datum_io.WritePairToFile(*arrays, path)
    assert path.read_bytes() == golden["bytes"].tobytes(), case
    proto = datum_io.ArraysToDatumPair(*arrays)
    assert proto.SerializeToString() == golden["bytes"].tobytes()
    for found in (
      datum_io.ReadPairFromFile(path),
      datum_io.DatumPairToArrays(proto),
    ):
      _check_same(found[0], golden["out_first"])
      _check_same(found[1], golden["out_second"])
    checked += 1
  assert checked == 5


def test_files_of_the_original(shared_data, tmp_path):
  paths = sorted((shared_data / "delf_v1_outputs").glob("*.datum"))
  assert len(paths) == 2
  for path in paths:
    array = datum_io.ReadFromFile(path)
    _check_same(array, np.load(path.with_suffix(".npy")).astype(np.float32))
    datum_io.WriteToFile(array, tmp_path / path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_result_can_be_written_to(dtype):
  array = datum_io.ParseFromString(
    datum_io.SerializeToString(np.ones([3], dtype=dtype))
  )
  array += 1
  assert array.flags.aligned
  np.testing.assert_array_equal(array, 2)


def test_fields_in_another_order_are_read():
  datum = datum_pb2.DatumProto(shape={"dim": [2]}, float_list={"value": [1, 2]})
  shape, values = datum.SerializeToString()[:5], datum.SerializeToString()[5:]
  np.testing.assert_array_equal(
    datum_io.ParseFromString(values + shape), np.float32([1, 2])
  )


def test_unpacked_values_are_read():
  # As a writer without `packed` makes them: one tag a value.
  values = b"\x0d\x00\x00\x80\x3f\x0d\x00\x00\x00\x40"
  data = b"\x0a\x03\x0a\x01\x02" + wire.delimited(2, len(values)) + values
  np.testing.assert_array_equal(
    datum_io.ParseFromString(data), np.float32([1, 2])
  )


@pytest.mark.parametrize(
  "dims",
  [
    [4],
    [2**62],
    [-1],
    [-1, -3],
    [2**31, 2**33],
    [1] * 40 + [3],
    [0, 2**62, 2**62],
    [2**33, 0],
  ],
)
def test_shapes_that_lie(dims, tmp_path):
  datum = datum_pb2.DatumProto(
    shape={"dim": dims}, float_list={"value": [] if 0 in dims else [1, 2, 3]}
  )
  data = datum.SerializeToString()
  if 0 in dims and len(dims) == 2:
    assert datum_io.ParseFromString(data).shape == tuple(dims)
    return
  (tmp_path / "a.datum").write_bytes(data)
  for read, source in (
    (datum_io.ParseFromString, data),
    (datum_io.DatumToArray, datum),
    (datum_io.ReadFromFile, tmp_path / "a.datum"),
  ):
    with pytest.raises(errors.InputError):
      read(source)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_dimensions_are_at_most_32(dtype, tmp_path):
  path = tmp_path / "a.datum"
  array = np.ones([1] * 32, dtype=dtype)
  datum_io.WriteToFile(array, path)
  assert datum_io.ReadFromFile(path).shape == array.shape
  # An old NumPy has no such array; a file may have it all the same.
  kind = "float_list" if dtype == np.float32 else "uint32_list"
  long = datum_pb2.DatumProto(shape={"dim": [1] * 33}, **{kind: {"value": [1]}})
  path.write_bytes(long.SerializeToString())
  with pytest.raises(errors.InputError, match="a.datum: .*at most 32 dim"):
    datum_io.ReadFromFile(path)
  with pytest.raises(errors.InputError, match="at most 32 dim"):
    datum_io.ParseFromString(path.read_bytes())
  if int(np.__version__.split(".")[0]) >= 2:
    with pytest.raises(errors.InputError, match="at most 32 dim"):
      datum_io.WriteToFile(array[None], path)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_more_than_a_protobuf_holds_is_refused(dtype):
  much = np.broadcast_to(dtype(0), [2**29])
  with pytest.raises(errors.InputError, match="the limit of protobuf"):
    datum_io.SerializeToString(much)


def test_a_datum_is_read_by_its_field_numbers():
  """The same bytes under other numbers are another message."""
  whole = datum_io.SerializeToString(np.float32([1, 2]))
  for place, number in ((0, 4), (0, 2), (2, 2), (5, 1), (7, 3)):
    tag = wire.tag(number)
    data = whole[:place] + tag + whole[place + 1 :]
    assert data != whole
    with pytest.raises(errors.InputError):
      datum_io.ParseFromString(data)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
  path = tmp_path / "a.datum"
  datum_io.WriteToFile(np.ones([1000], dtype=np.float32), path)
  status = os.stat(path)
  path.write_bytes(path.read_bytes()[:2000])
  monkeypatch.setattr(wire.os, "fstat", lambda _: status)
  assert wire.read_floats(path) is None
  with pytest.raises(errors.InputError, match="a.datum"):
    datum_io.ReadFromFile(path)


def _samples():
  rng = np.random.default_rng(1)
  floats = rng.standard_normal([3, 5], dtype=np.float32)
  integers = rng.integers(0, 2**32, [4], dtype=np.uint32)
  return [
    datum_io.SerializeToString(floats),
    datum_io.SerializeToString(integers),
    datum_io.SerializePairToString(floats, integers),
  ]


def test_files_cut_at_every_byte(tmp_path):
  readers = [datum_io.ReadFromFile] * 2 + [datum_io.ReadPairFromFile]
  path = tmp_path / "cut.datum"
  for data, read in zip(_samples(), readers, strict=True):
    for length in range(len(data)):
      path.write_bytes(data[:length])
      with pytest.raises(errors.InputError, match="cut.datum") as caught:
        read(path)
      assert "\n" not in str(caught.value)


def test_changed_bytes_raise_nothing_but_value_errors():
  rng = np.random.default_rng(2)
  for data in _samples():
    for _ in range(1500):
      changed = np.frombuffer(data, dtype=np.uint8).copy()
      places = rng.integers(0, len(data), rng.integers(1, 4))
      changed[places] = rng.integers(0, 256, len(places))
      _check_as_protobuf(changed.tobytes())


def _check_as_protobuf(data):
  """Reads bytes, which protobuf must read to the same arrays, or not at all."""
  for parse, message, convert in (
    (datum_io.ParseFromString, datum_pb2.DatumProto, datum_io.DatumToArray),
    (
      datum_io.ParsePairFromString,
      datum_pb2.DatumPairProto,
      datum_io.DatumPairToArrays,
    ),
  ):
    try:
      expected = convert(message.FromString(data))
    except (ValueError, DecodeError):
      with pytest.raises(errors.InputError):
        parse(data)
      continue
    found = parse(data)
    if message is datum_pb2.DatumProto:
      found, expected = [found], [expected]
    for one, other in zip(found, expected, strict=True):
      _check_same(one, other)


@pytest.mark.parametrize("place", [0, 1])
def test_long_tags_and_lengths_are_as_in_protobuf(place):
  """Five bytes are read however small the number is; six are not."""
  data = datum_io.SerializeToString(np.float32([1, 2]))
  for extra in range(1, 7):
    longer = bytes([data[place] | 0x80, *[0x80] * (extra - 1), 0])
    _check_as_protobuf(data[:place] + longer + data[place + 1 :])


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.datum"):
    datum_io.ReadFromFile(tmp_path / "none.datum")


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
  with pytest.raises(errors.InputError):
    datum_io.WriteToFile(np.array([1, -1]), tmp_path / "a.datum")
  assert not list(tmp_path.iterdir())
