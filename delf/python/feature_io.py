"""Local features as DelfFeatures, in memory and in `.delf` files.

A file is one record per feature: its descriptor, then x, y, scale, orientation
and strength. Where all records have the same layout, as in everything that this
module and the original write, they are written and read as one array.
"""

import numpy as np
from google.protobuf import message

from delf.protos import feature_pb2
from delf.python import datum_io, errors, features, files, wire

# Field numbers of feature.proto.
_FEATURE = 1
_DESCRIPTOR = 1
_SCALARS = {"x": 2, "y": 3, "scale": 4, "orientation": 5, "strength": 6}


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


def _layout(dimension):
  """Returns the layout of a record with a float descriptor.

  Args:
    dimension: Values of the descriptor.

  Returns:
    dtype of a record, and a [] array of it that holds the constant parts: the
    `head`, and before each scalar its tag.
  """
  datum = datum_io.float_header(dimension)
  size = len(datum) + 4 * dimension
  tail = len(_SCALARS) * 5
  body = wire.delimited(_DESCRIPTOR, size)
  head = wire.delimited(_FEATURE, len(body) + size + tail) + body + datum
  fields = [("head", np.uint8, [len(head)]), ("descriptor", "<f4", [dimension])]
  for name in _SCALARS:
    fields += [(f"{name}_tag", np.uint8), (name, "<f4")]
  record = np.zeros([], dtype=np.dtype(fields))
  record["head"] = np.frombuffer(head, dtype=np.uint8)
  for name, number in _SCALARS.items():
    record[f"{name}_tag"] = wire.fixed32_tag(number)[0]
  return record.dtype, record


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
  for name, column in columns.items():
    if np.asarray(column).dtype.kind not in "fiu":
      raise errors.InputError(
        f"numbers as {name}", f"an array of type {np.asarray(column).dtype}"
      )
  return {name: datum_io.to_float32(column) for name, column in columns.items()}


def _serialize(local_features):
  """Returns the bytes of a DelfFeatures."""
  if not len(local_features):
    return b""
  columns = _columns(local_features)
  descriptors = np.asarray(local_features.descriptors)
  if descriptors.dtype.kind != "f":
    return _serialize_integers(columns, descriptors)
  dtype, constant = _layout(descriptors.shape[1])
  records = np.full([len(local_features)], constant, dtype=dtype)
  records["descriptor"] = datum_io.to_float32(descriptors)
  for name, column in columns.items():
    records[name] = column
  return records.tobytes()


def _serialize_integers(columns, descriptors):
  """Returns the bytes of features whose descriptors are integers."""
  message_ = feature_pb2.DelfFeatures()
  for index, descriptor in enumerate(descriptors):
    message_.feature.add(
      descriptor=datum_io.ArrayToDatum(descriptor),
      **{name: column[index] for name, column in columns.items()},
    )
  return message_.SerializeToString()


def _parse(data, path):
  """Converts bytes to features.LocalFeatures; `path` is for errors."""
  if not data:
    return features.LocalFeatures.empty()
  records = _parse_records(data)
  if records is None:
    try:
      delf_features = feature_pb2.DelfFeatures.FromString(data)
    except message.DecodeError:
      raise errors.InputError(
        "whole DelfFeatures",
        f"{len(data)} bytes that are cut or of another format",
        path,
      ) from None
    return _from_proto(delf_features, path)
  return features.LocalFeatures(
    locations=np.stack([records["y"], records["x"]], axis=1, dtype=np.float32),
    scales=records["scale"].astype(np.float32),
    descriptors=records["descriptor"].astype(np.float32),
    attention=records["strength"].astype(np.float32),
    orientations=records["orientation"].astype(np.float32),
  )


def _parse_records(data):
  """Returns the records of a file where all have one layout, else None."""
  try:
    _, start, end = next(wire.delimited_fields(data))
    first = feature_pb2.DelfFeature.FromString(data[start:end])
  except (ValueError, message.DecodeError):
    return None
  dtype, constant = _layout(len(first.descriptor.float_list.value))
  if len(data) % dtype.itemsize:
    return None
  records = np.frombuffer(data, dtype=dtype)
  constants = ["head", *(f"{name}_tag" for name in _SCALARS)]
  if all((records[name] == constant[name]).all() for name in constants):
    return records
  return None


def _from_proto(delf_features, path):
  """Converts a DelfFeatures to features.LocalFeatures; `path` is for errors."""
  if not delf_features.feature:
    return features.LocalFeatures.empty()
  descriptors = []
  for feature in delf_features.feature:
    try:
      descriptors.append(datum_io.DatumToArray(feature.descriptor))
    except errors.InputError as error:
      raise errors.InputError("whole descriptors", f"({error})", path) from None
    if descriptors[-1].shape != descriptors[0].shape[:1]:
      raise errors.InputError(
        f"descriptors of one shape, {list(descriptors[0].shape[:1])}",
        f"one of shape {list(descriptors[-1].shape)}",
        path,
      )
  return features.LocalFeatures(
    locations=_column(delf_features, "y", "x"),
    scales=_column(delf_features, "scale")[:, 0],
    descriptors=np.stack(descriptors),
    attention=_column(delf_features, "strength")[:, 0],
    orientations=_column(delf_features, "orientation")[:, 0],
  )


def _column(delf_features, *names):
  return np.array(
    [[getattr(f, name) for name in names] for f in delf_features.feature],
    dtype=np.float32,
  )
