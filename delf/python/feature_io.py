"""Local features as DelfFeatures, in memory and in `.delf` files.

Where all features have the same layout in a file, as in everything that this
module and the original write, they are written and read as one array.
"""

import numpy as np
from google.protobuf import message

from delf.base import errors, files
from delf.formats import features, wire
from delf.protos import feature_pb2
from delf.python import datum_io


def ArraysToDelfFeatures(
  locations, scales, descriptors, attention, orientations=None
):
  """Converts arrays to a DelfFeatures message.

  Args:
    locations: [N, 2] float, (y, x) of each feature, in pixels.
    scales: [N] float.
    descriptors: [N, D], of a type that `datum_io.ArrayToDatum` takes.
    attention: [N] float, stored as strength.
    orientations: [N] float, radians; by default zeros.

  Returns:
    DelfFeatures. Floats are rounded to float32.

  Raises:
    InputError: If the shapes do not fit together, or a type is not known.
  """
  return feature_pb2.DelfFeatures.FromString(
    SerializeToString(locations, scales, descriptors, attention, orientations)
  )


def DelfFeaturesToArrays(delf_features):
  """Converts a DelfFeatures message to arrays.

  Args:
    delf_features: DelfFeatures.

  Returns:
    locations [N, 2] as (y, x), scales [N], descriptors [N, D], attention [N]
    and orientations [N]: float64 arrays that hold float32 values. Without
    features they are of shapes [0, 2], [0], [0, 0], [0] and [0].

  Raises:
    InputError: If a descriptor is missing, not one-dimensional, or of another
      dimension than the first.
  """
  return _to_float64(_from_proto(delf_features, None))


def SerializeToString(
  locations, scales, descriptors, attention, orientations=None
):
  """Converts arrays, as in `ArraysToDelfFeatures`, to bytes."""
  return _serialize(
    features.LocalFeatures(
      locations=_rows(locations, 2),
      scales=np.asarray(scales),
      descriptors=_rows(descriptors, 0),
      attention=np.asarray(attention),
      orientations=None if orientations is None else np.asarray(orientations),
    )
  )


def ParseFromString(string):
  """Converts bytes to arrays, as in `DelfFeaturesToArrays`."""
  return _to_float64(_parse(string, None))


def ReadFromFile(file_path):
  """Reads the arrays of a `.delf` file, as in `DelfFeaturesToArrays`.

  Args:
    file_path: Path of the file.

  Returns:
    locations, scales, descriptors, attention, orientations, all float64.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut within a feature, or is not a DelfFeatures.
  """
  return _to_float64(read_local_features(file_path))


def WriteToFile(
  file_path, locations, scales, descriptors, attention, orientations=None
):
  """Writes arrays, as in `ArraysToDelfFeatures`, to a file."""
  files.write_bytes(
    file_path,
    SerializeToString(locations, scales, descriptors, attention, orientations),
  )


def read_local_features(path):
  """Reads a `.delf` or `.delg_local` file.

  Args:
    path: Path of the file.

  Returns:
    features.LocalFeatures of float32 arrays.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut within a feature, or is not a DelfFeatures.
  """
  return _parse(files.read_bytes(path), path)


def write_local_features(path, local_features):
  """Writes features.LocalFeatures to a `.delf` or `.delg_local` file."""
  files.write_bytes(path, _serialize(local_features))


def _rows(array, width):
  """Returns an array, without features as [0, width] whatever its rank."""
  array = np.asarray(array)
  return array.reshape([0, width]) if array.shape == (0,) else array


def _to_float64(local_features):
  # Files may hold any NaN, signalling ones too, which NumPy would warn of.
  with np.errstate(invalid="ignore"):
    return tuple(
      array.astype(np.float64)
      for array in (
        local_features.locations,
        local_features.scales,
        local_features.descriptors,
        local_features.attention,
        local_features.orientations,
      )
    )


def _columns(local_features):
  """Returns the scalar fields of the records by name, each [N] float."""
  locations = np.asarray(local_features.locations)
  columns = {
    "x": locations[:, 1],
    "y": locations[:, 0],
    "scale": local_features.scales,
    "orientation": local_features.orientations,
    "strength": local_features.attention,
  }
  return {n: wire.to_float32(column, n) for n, column in columns.items()}


def _serialize(local_features):
  """Returns the bytes of a DelfFeatures."""
  if not len(local_features):
    return b""
  columns = _columns(local_features)
  descriptors = np.asarray(local_features.descriptors)
  if descriptors.dtype.type in wire.FLOATS:
    return wire.pack_features(descriptors, columns)
  return _serialize_integers(columns, wire.to_uint32(descriptors))


def _serialize_integers(columns, descriptors):
  """Returns the bytes of features whose descriptors are uint32."""
  message_ = feature_pb2.DelfFeatures()
  dims = descriptors.shape[1:]
  scalars = zip(*(column.tolist() for column in columns.values()), strict=True)
  for values, row in zip(descriptors.tolist(), scalars, strict=True):
    message_.feature.add(
      descriptor={"shape": {"dim": dims}, "uint32_list": {"value": values}},
      **dict(zip(columns, row, strict=True)),
    )
  return message_.SerializeToString()


def _parse(data, path):
  """Converts bytes to features.LocalFeatures; `path` is for errors."""
  if not data:
    return features.LocalFeatures.empty()
  found = wire.view_features(data)
  if found is not None:
    return features.LocalFeatures(
      locations=np.stack([found["y"], found["x"]], axis=1, dtype=np.float32),
      scales=found["scale"].astype(np.float32),
      descriptors=found["descriptor"].astype(np.float32),
      attention=found["strength"].astype(np.float32),
      orientations=found["orientation"].astype(np.float32),
    )
  try:
    delf_features = feature_pb2.DelfFeatures.FromString(data)
  except message.DecodeError:
    raise errors.InputError(
      "whole DelfFeatures",
      f"{len(data)} bytes that are cut or of another format",
      path,
    ) from None
  return _from_proto(delf_features, path)


def _from_proto(delf_features, path):
  """Converts a DelfFeatures to features.LocalFeatures; `path` is for errors."""
  if not delf_features.feature:
    return features.LocalFeatures.empty()
  descriptors = []
  for feature in delf_features.feature:
    descriptors.append(datum_io.from_proto(feature.descriptor, path))
    if descriptors[-1].shape != descriptors[0].shape[:1]:
      raise errors.InputError(
        f"descriptors of one shape, {list(descriptors[0].shape[:1])}",
        f"one of shape {list(descriptors[-1].shape)}",
        path,
      )
  rows = [
    (f.y, f.x, f.scale, f.strength, f.orientation)
    for f in delf_features.feature
  ]
  columns = np.array(rows, dtype=np.float32).T.copy()
  y, x, scales, attention, orientations = columns
  return features.LocalFeatures(
    locations=np.stack([y, x], axis=1),
    scales=scales,
    descriptors=np.stack(descriptors),
    attention=attention,
    orientations=orientations,
  )
