"""Local features as DelfFeatures, in memory and in `.delf` files.

Features of one layout, as this module and the original write them, are written
and read as one array.
"""

import numpy as np

from delf.base import errors, files
from delf.formats import features, wire
from delf.protos import feature_pb2
from delf.python import datum_io

# Locations, scales, descriptors, attention, orientations.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def ArraysToDelfFeatures(
  locations: np.ndarray,
  scales: np.ndarray,
  descriptors: np.ndarray,
  attention: np.ndarray,
  orientations: np.ndarray | None = None,
) -> feature_pb2.DelfFeatures:
  """Convert arrays to a DelfFeatures message; floats are rounded to float32.

  Locations are [N, 2], (y, x) in pixels; descriptors [N, D] of a type that
  `datum_io.ArrayToDatum` accepts; scales, attention (stored as strength) and
  orientations (radians, by default zeros) are [N].
  """
  return feature_pb2.DelfFeatures.FromString(
    SerializeToString(locations, scales, descriptors, attention, orientations)
  )


def DelfFeaturesToArrays(delf_features: feature_pb2.DelfFeatures) -> Arrays:
  """Convert a DelfFeatures message to float64 arrays of float32 values.

  Return locations [N, 2] as (y, x), scales [N], descriptors [N, D] ([0, 0]
  without features), attention [N] and orientations [N].
  """
  return _to_float64(_from_proto(delf_features, None))


def SerializeToString(
  locations: np.ndarray,
  scales: np.ndarray,
  descriptors: np.ndarray,
  attention: np.ndarray,
  orientations: np.ndarray | None = None,
) -> bytes:
  """Convert arrays, as in `ArraysToDelfFeatures`, to bytes."""
  local = features.LocalFeatures(
    _rows(locations, 2),
    np.asarray(scales),
    _rows(descriptors, 0),
    np.asarray(attention),
    *(() if orientations is None else (np.asarray(orientations),)),
  )
  return _serialize(local)


def ParseFromString(string: bytes) -> Arrays:
  """Convert bytes to arrays, as in `DelfFeaturesToArrays`."""
  return _to_float64(_parse(string, None))


def ReadFromFile(file_path: files.Path) -> Arrays:
  """Read the arrays of a `.delf` file, as in `DelfFeaturesToArrays`."""
  return _to_float64(read_local_features(file_path))


def WriteToFile(
  file_path: files.Path,
  locations: np.ndarray,
  scales: np.ndarray,
  descriptors: np.ndarray,
  attention: np.ndarray,
  orientations: np.ndarray | None = None,
) -> None:
  """Write arrays, as in `ArraysToDelfFeatures`, to a file."""
  files.write_bytes(
    file_path,
    SerializeToString(locations, scales, descriptors, attention, orientations),
  )


def read_local_features(path: files.Path) -> features.LocalFeatures:
  """Read the float32 features of a `.delf` or `.delg_local` file."""
  return _parse(files.read_bytes(path), path)


def write_local_features(
  path: files.Path, local_features: features.LocalFeatures
) -> None:
  """Write features to a `.delf` or `.delg_local` file."""
  files.write_bytes(path, _serialize(local_features))


def _rows(array, width):
  """Return an array, reshaped from [0] to [0, width]."""
  array = np.asarray(array)
  return array.reshape([0, width]) if array.shape == (0,) else array


def _to_float64(local):
  names = "locations", "scales", "descriptors", "attention", "orientations"
  # Files may hold signalling NaNs, about which NumPy would warn.
  with np.errstate(invalid="ignore"):
    return tuple(getattr(local, name).astype(np.float64) for name in names)


def _serialize(local):
  if not len(local):
    return b""
  locations, descriptors = map(np.asarray, (local.locations, local.descriptors))
  columns = {
    "x": locations[:, 1],
    "y": locations[:, 0],
    "scale": local.scales,
    "orientation": local.orientations,
    "strength": local.attention,
  }
  columns = {n: wire.to_float32(column, n) for n, column in columns.items()}
  if descriptors.dtype.type in wire.FLOATS:
    return wire.pack_features(descriptors, columns)
  delf_features, dims = feature_pb2.DelfFeatures(), descriptors.shape[1:]
  scalars = zip(*(column.tolist() for column in columns.values()), strict=True)
  integers = wire.to_uint32(descriptors).tolist()
  for values, row in zip(integers, scalars, strict=True):
    delf_features.feature.add(
      descriptor={"shape": {"dim": dims}, "uint32_list": {"value": values}},
      **dict(zip(columns, row, strict=True)),
    )
  return delf_features.SerializeToString()


def _parse(data, path):
  records = wire.view_features(data) if data else None
  if records is None:
    kind = feature_pb2.DelfFeatures
    return _from_proto(wire.parse_message(kind, data, path), path)
  return features.LocalFeatures(
    locations=np.stack([records["y"], records["x"]], axis=1, dtype=np.float32),
    scales=records["scale"].astype(np.float32),
    descriptors=records["descriptor"].astype(np.float32),
    attention=records["strength"].astype(np.float32),
    orientations=records["orientation"].astype(np.float32),
  )


def _from_proto(delf_features, path):
  if not delf_features.feature:
    return features.LocalFeatures.empty()
  descriptors = []
  for feature in delf_features.feature:
    descriptors.append(datum_io.DatumToArray(feature.descriptor, path))
    if descriptors[-1].shape != descriptors[0].shape[:1]:
      raise errors.InputError(
        "all descriptors must have one shape, but they have "
        f"{list(descriptors[0].shape)} and {list(descriptors[-1].shape)}",
        path=path,
      )
  rows = [
    (f.y, f.x, f.scale, f.strength, f.orientation)
    for f in delf_features.feature
  ]
  y, x, *columns = np.array(rows, dtype=np.float32).T.copy()
  scales, attention, orientations = columns
  locations = np.stack([y, x], axis=1)
  stacked = np.stack(descriptors)
  return features.LocalFeatures(
    locations, scales, stacked, attention, orientations
  )
