import json

import numpy as np
import pytest

from delf.protos import datum_pb2
from delf.python import datum_io, errors, wire

# Where the original is wrong and this library differs, with the reason.
_OVERRIDDEN = {"datum/u64_wrap": "uint64 that does not fit is refused"}


def _index(goldens, prefix):
  cases = json.loads((goldens / "io_index.json").read_text())
  return {k: v for k, v in cases.items() if k.startswith(f"{prefix}/")}


def _npz(goldens, case):
  return np.load(goldens / f"io_{case.replace('/', '_')}.npz")


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
  folder = shared_data / "delf_v1_outputs"
  for path in sorted(folder.glob("*.datum")):
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
def test_shapes_that_lie(dims):
  datum = datum_pb2.DatumProto(
    shape={"dim": dims}, float_list={"value": [] if 0 in dims else [1, 2, 3]}
  )
  data = datum.SerializeToString()
  if 0 in dims and len(dims) == 2:
    assert datum_io.ParseFromString(data).shape == tuple(dims)
    return
  with pytest.raises(errors.InputError):
    datum_io.ParseFromString(data)
  with pytest.raises(errors.InputError):
    datum_io.DatumToArray(datum)


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
      for parse in (datum_io.ParseFromString, datum_io.ParsePairFromString):
        try:
          parse(changed.tobytes())
        except ValueError as error:
          assert isinstance(error, errors.InputError)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.datum"):
    datum_io.ReadFromFile(tmp_path / "none.datum")


def test_nothing_is_left_of_a_write_that_fails(tmp_path):
  with pytest.raises(errors.InputError):
    datum_io.WriteToFile(np.array([1, -1]), tmp_path / "a.datum")
  assert not list(tmp_path.iterdir())
