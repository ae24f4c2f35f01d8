"""How fast feature and array files are written and read.

The baseline fills and reads protobuf messages one value at a time; the array
file is compared with a copy of the array in memory, too.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np

from delf.formats import features
from delf.protos import datum_pb2, feature_pb2
from delf.python import datum_io, feature_io


def _baseline_datum(array):
  """Return a DatumProto filled value by value."""
  datum = datum_pb2.DatumProto()
  for size in array.shape:
    datum.shape.dim.append(size)
  values = datum.float_list if array.dtype.kind == "f" else datum.uint32_list
  for value in array.reshape(-1).tolist():
    values.value.append(value)
  return datum


def _baseline_array(datum):
  """Return the array of a DatumProto read value by value."""
  kind = datum.WhichOneof("kind_oneof")
  values = [value for value in getattr(datum, kind).value]  # noqa: C416
  dtype = np.float32 if kind == "float_list" else np.uint32
  return np.array(values, dtype=dtype).reshape(list(datum.shape.dim))


def _baseline_write_datum(path, array):
  path.write_bytes(_baseline_datum(array).SerializeToString())


def _baseline_read_datum(path):
  return _baseline_array(datum_pb2.DatumProto.FromString(path.read_bytes()))


def _baseline_write_features(path, local):
  message = feature_pb2.DelfFeatures()
  for index in range(len(local)):
    feature = message.feature.add()
    feature.y, feature.x = local.locations[index].tolist()
    feature.scale = float(local.scales[index])
    feature.orientation = float(local.orientations[index])
    feature.strength = float(local.attention[index])
    feature.descriptor.CopyFrom(_baseline_datum(local.descriptors[index]))
  path.write_bytes(message.SerializeToString())


def _baseline_read_features(path):
  message = feature_pb2.DelfFeatures.FromString(path.read_bytes())
  found = message.feature
  return features.LocalFeatures(
    locations=np.array([[f.y, f.x] for f in found]),
    scales=np.array([f.scale for f in found]),
    descriptors=np.stack([_baseline_array(f.descriptor) for f in found]),
    attention=np.array([f.strength for f in found]),
    orientations=np.array([f.orientation for f in found]),
  )


def _fastest(function, runs):
  """Return the milliseconds of the fastest of some runs."""
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times) * 1000


def _line(name, ours, baseline, baseline_name="value by value"):
  print(
    f"{name:34} {ours:9.2f} {baseline:9.2f}  {baseline_name:14}"
    f" {baseline / ours:7.1f}x"
  )


def _features(folder, runs):
  rng = np.random.default_rng(0)
  shapes = ([1000, 2], [1000], [1000, 128], [1000])
  local = features.LocalFeatures(
    *(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
  )
  path, other = folder / "a.delf", folder / "b.delf"
  written = _fastest(lambda: feature_io.write_local_features(path, local), runs)
  slow = _fastest(lambda: _baseline_write_features(other, local), 5)
  _line("write .delf 1000 x 128", written, slow)
  read = _fastest(lambda: feature_io.read_local_features(path), runs)
  classic = _fastest(lambda: feature_io.ReadFromFile(path), runs)
  slow = _fastest(lambda: _baseline_read_features(path), 5)
  _line("read .delf 1000 x 128", read, slow)
  _line("read .delf, ReadFromFile (float64)", classic, slow)
  assert path.read_bytes() == other.read_bytes()


def _datum(folder, rows, runs):
  array = np.random.default_rng(0).standard_normal(
    [rows, 128], dtype=np.float32
  )
  size = f"{rows} x 128"
  path, other = folder / "a.datum", folder / "b.datum"
  data = datum_io.SerializeToString(array)
  copy = _fastest(array.copy, runs)
  packed = _fastest(lambda: datum_io.SerializeToString(array), runs)
  parsed = _fastest(lambda: datum_io.ParseFromString(data), runs)
  to_bytes = _fastest(array.tobytes, runs)
  _line(f"serialise datum {size}", packed, to_bytes, "copy to bytes")
  _line(f"parse datum {size}", parsed, copy, "copy of array")
  written = _fastest(lambda: datum_io.WriteToFile(array, path), runs)
  raw = _fastest(lambda: (folder / "raw").write_bytes(data), runs)
  _line(f"write .datum {size}", written, raw, "write_bytes")
  read = _fastest(lambda: datum_io.ReadFromFile(path), runs)
  raw = _fastest((folder / "raw").read_bytes, runs)
  _line(f"read .datum {size}", read, raw, "read_bytes")
  slow = _fastest(lambda: _baseline_write_datum(other, array), 1)
  _line(f"write .datum {size}", written, slow)
  slow = _fastest(lambda: _baseline_read_datum(path), 1)
  _line(f"read .datum {size}", read, slow)
  assert path.read_bytes() == other.read_bytes()


def _integers(folder, rows, runs):
  """Lines for the two kinds of integers that aggregates are made of."""
  rng = np.random.default_rng(0)
  arrays = {
    f"{rows} words": np.sort(rng.integers(0, 65536, [rows], dtype=np.uint32)),
    f"{rows} x 16 bytes of bits": rng.integers(0, 256, [rows, 16], np.uint8),
  }
  path, other = folder / "c.datum", folder / "d.datum"
  for name, array in arrays.items():
    written = _fastest(lambda: datum_io.WriteToFile(array, path), runs)  # noqa: B023
    slow = _fastest(lambda: _baseline_write_datum(other, array), 3)  # noqa: B023
    _line(f"write {name}", written, slow)
    read = _fastest(lambda: datum_io.ReadFromFile(path), runs)
    slow = _fastest(lambda: _baseline_read_datum(path), 3)
    _line(f"read {name}", read, slow)
    assert path.read_bytes() == other.read_bytes()


def main():
  """Print milliseconds, ours and the baseline's, and their ratio."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--quick", action="store_true", help="8192 rows of the array, not 65536"
  )
  quick = parser.parse_args().quick
  print(f"{'ms, fastest run':34} {'ours':>9} {'baseline':>9}")
  with tempfile.TemporaryDirectory() as folder:
    _features(pathlib.Path(folder), 20 if quick else 50)
    _datum(pathlib.Path(folder), 8192 if quick else 65536, 10)
    _integers(pathlib.Path(folder), 8192 if quick else 65536, 10)


if __name__ == "__main__":
  main()
