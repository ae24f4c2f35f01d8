import json

import numpy as np
import pytest

from delf.base import errors
from delf.formats import features, wire
from delf.protos import datum_pb2, feature_pb2
from delf.python import feature_io
from tests.stand_ins import npz

_NAMES = ("locations", "scales", "descriptors", "attention", "orientations")

# Where the original is wrong and this library differs, with the reason.
_OVERRIDDEN = {
  "delf/empty": "arrays without features keep their rank",
  "delf/empty_1d": "arrays without features keep their rank",
}


def _arrays(number=6, dimension=5, seed=0):
  rng = np.random.default_rng(seed)
  shapes = ([number, 2], [number], [number, dimension], [number], [number])
  return [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]


def _check_same(found, expected):
  for array, wanted in zip(found, expected, strict=True):
    assert array.dtype == np.float64
    assert array.shape == wanted.shape
    np.testing.assert_array_equal(array, wanted)


def test_goldens(goldens, tmp_path):
  index = json.loads((goldens / "io_index.json").read_text())
  cases = {k: v for k, v in index.items() if k.startswith("delf/")}
  for case, record in cases.items():
    if record["write"] != "ok":
      assert case == "delf/n2d8_int32"
      wrong = _arrays()
      wrong[2] = wrong[2].astype(np.int32)
      with pytest.raises(ValueError, match="int32"):
        feature_io.SerializeToString(*wrong)
      continue
    golden = npz.read(goldens / f"io_{case.replace('/', '_')}.npz")
    inputs = [golden[f"in_{n}"] for n in _NAMES if f"in_{n}" in golden]
    path = tmp_path / "a.delf"
    feature_io.WriteToFile(path, *inputs)
    assert path.read_bytes() == golden["bytes"].tobytes(), case
    proto = feature_io.ArraysToDelfFeatures(*inputs)
    assert proto.SerializeToString() == golden["bytes"].tobytes(), case
    expected = [golden[f"out_{name}"] for name in _NAMES]
    if case in _OVERRIDDEN:
      shapes = ([0, 2], [0], [0, 0], [0], [0])
      expected = [np.zeros(shape) for shape in shapes]
    _check_same(feature_io.ReadFromFile(path), expected)
    _check_same(feature_io.DelfFeaturesToArrays(proto), expected)
  assert len(cases) == 14


def test_files_of_the_original(shared_data, tmp_path):
  paths = sorted((shared_data / "delf_v1_outputs").glob("*.delf"))
  index = json.loads((paths[0].parent / "index.json").read_text())
  assert len(paths) == 26
  assert index
  for path in paths:
    arrays = feature_io.ReadFromFile(path)
    assert wire.view_features(path.read_bytes()) is not None
    # The parser of protobuf, which reads what is not regular, agrees.
    proto = feature_pb2.DelfFeatures.FromString(path.read_bytes())
    _check_same(feature_io.DelfFeaturesToArrays(proto), arrays)
    feature_io.WriteToFile(tmp_path / path.name, *arrays)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    if path.with_suffix(".npz").exists():
      decoded = npz.read(path.with_suffix(".npz"))
      _check_same(arrays, [decoded[name].astype(float) for name in _NAMES])


def test_local_features_round_trip(tmp_path):
  local = features.LocalFeatures(*_arrays())
  path = tmp_path / "folder" / "a.delg_local"
  feature_io.write_local_features(path, local)
  found = feature_io.read_local_features(path)
  for name in _NAMES:
    assert getattr(found, name).dtype == np.float32
    np.testing.assert_array_equal(getattr(found, name), getattr(local, name))
    assert getattr(found, name).flags.aligned
    assert getattr(found, name).flags.writeable


def test_no_features(tmp_path):
  path = tmp_path / "a.delf"
  feature_io.write_local_features(path, features.LocalFeatures.empty(40))
  assert path.read_bytes() == b""
  assert feature_io.read_local_features(path).descriptors.shape == (0, 0)


@pytest.mark.parametrize("which", range(5))
def test_lengths_that_differ(which):
  arrays = _arrays()
  arrays[which] = arrays[which][:-1]
  with pytest.raises(errors.InputError, match="shape"):
    feature_io.SerializeToString(*arrays)


def test_records_of_other_layouts_are_read():
  """Fields that are missing or in another order, left to protobuf."""
  datum = datum_pb2.DatumProto(shape={"dim": [2]}, float_list={"value": [1, 2]})
  proto = feature_pb2.DelfFeatures()
  proto.feature.add(descriptor=datum, x=3, strength=4)
  proto.feature.add(descriptor=datum, x=3, y=1, scale=2)
  data = proto.SerializeToString()
  assert wire.view_features(data) is None
  locations, scales, descriptors, attention, orientations = (
    feature_io.ParseFromString(data)
  )
  np.testing.assert_array_equal(locations, [[0, 3], [1, 3]])
  np.testing.assert_array_equal(scales, [0, 2])
  np.testing.assert_array_equal(descriptors, [[1, 2], [1, 2]])
  np.testing.assert_array_equal(attention, [4, 0])
  np.testing.assert_array_equal(orientations, [0, 0])


@pytest.mark.parametrize(
  "shapes", [([2], [3]), ([2], [1, 2]), ([1, 2], [1, 2]), ([2], None)]
)
def test_descriptors_that_do_not_fit(shapes):
  proto = feature_pb2.DelfFeatures()
  for shape in shapes:
    feature = proto.feature.add(x=1, y=1)
    if shape is not None:
      feature.descriptor.shape.dim.extend(shape)
      feature.descriptor.float_list.value.extend(np.ones(np.prod(shape)))
  with pytest.raises(errors.InputError):
    feature_io.DelfFeaturesToArrays(proto)
  with pytest.raises(errors.InputError):
    feature_io.ParseFromString(proto.SerializeToString())


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_files_cut_at_every_byte(dtype, tmp_path):
  """Only a cut between two features leaves a whole, shorter, file."""
  arrays = _arrays(number=3, dimension=4)
  arrays[2] = np.arange(12).reshape([3, 4]).astype(dtype)
  data = feature_io.SerializeToString(*arrays)
  record = len(data) // 3
  path = tmp_path / "cut.delf"
  for length in range(len(data)):
    path.write_bytes(data[:length])
    if length % record == 0:
      assert len(feature_io.read_local_features(path)) == length // record
      continue
    with pytest.raises(errors.InputError, match="cut.delf") as caught:
      feature_io.ReadFromFile(path)
    assert "\n" not in str(caught.value)


def test_changed_bytes_raise_nothing_but_value_errors():
  rng = np.random.default_rng(2)
  data = feature_io.SerializeToString(*_arrays(number=3, dimension=4))
  for _ in range(4000):
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    places = rng.integers(0, len(data), rng.integers(1, 4))
    changed[places] = rng.integers(0, 256, len(places))
    try:
      found = feature_io.ParseFromString(changed.tobytes())
    except ValueError as error:
      assert isinstance(error, errors.InputError)
    else:
      # Whatever is read by records is what protobuf's parser reads.
      proto = feature_pb2.DelfFeatures.FromString(changed.tobytes())
      _check_same(found, feature_io.DelfFeaturesToArrays(proto))


def test_changed_bytes_of_integers_raise_nothing_but_value_errors():
  rng = np.random.default_rng(3)
  arrays = _arrays(number=3, dimension=4)
  arrays[2] = rng.integers(0, 2**32, [3, 4], dtype=np.uint32)
  data = feature_io.SerializeToString(*arrays)
  for _ in range(1000):
    changed = bytearray(data)
    changed[rng.integers(0, len(data))] = rng.integers(0, 256)
    try:
      found = feature_io.ParseFromString(bytes(changed))
    except ValueError as error:
      assert isinstance(error, errors.InputError)
    else:
      assert len({len(array) for array in found}) == 1


@pytest.mark.parametrize("dtype", [np.longdouble, np.int32, bool, "U1"])
def test_descriptors_of_types_that_are_not_stored(dtype):
  arrays = _arrays()
  arrays[2] = arrays[2].astype(dtype)
  with pytest.raises(errors.InputError, match="float16, 32 or 64 or uint8"):
    feature_io.SerializeToString(*arrays)


def test_columns_must_be_numbers():
  arrays = _arrays()
  arrays[1] = np.array(["a"] * 6)
  with pytest.raises(errors.InputError, match="scale"):
    feature_io.SerializeToString(*arrays)
