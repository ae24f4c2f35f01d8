"""Features with float descriptors as an array of records of a `.delf` file.

A record is the bytes of one DelfFeature: its descriptor, then x, y, scale,
orientation and strength. For one dimension of descriptors all have one layout.
"""

import numpy as np
from google.protobuf import message

from delf.protos import feature_pb2
from delf.python import datum_bytes, wire

# Field numbers of feature.proto.
_FEATURE = 1
_DESCRIPTOR = 1
_SCALARS = {"x": 2, "y": 3, "scale": 4, "orientation": 5, "strength": 6}


def pack(descriptors, columns):
  """Converts features to bytes of a DelfFeatures.

  Args:
    descriptors: [N, D] float.
    columns: dict of `x`, `y`, `scale`, `orientation` and `strength`, each [N].

  Returns:
    bytes.
  """
  constant = _constant(descriptors.shape[1])
  records = np.full([len(descriptors)], constant, dtype=constant.dtype)
  records["descriptor"] = wire.to_float32(descriptors)
  for name in _SCALARS:
    records[name] = columns[name]
  return records.tobytes()


def unpack(data):
  """Views bytes of a DelfFeatures as records.

  Args:
    data: bytes, not empty.

  Returns:
    [N] array with the fields `descriptor` [N, D] and `x`, `y`, `scale`,
    `orientation`, `strength` [N], all float32 and not aligned; or None where
    the bytes are not records of one layout, every tag and length of each
    compared.
  """
  try:
    _, start, end = next(wire.delimited_fields(data))
    first = feature_pb2.DelfFeature.FromString(data[start:end])
  except (ValueError, message.DecodeError):
    return None
  constant = _constant(len(first.descriptor.float_list.value))
  if len(data) % constant.dtype.itemsize:
    return None
  records = np.frombuffer(data, dtype=constant.dtype)
  names = ["head", *(f"{name}_tag" for name in _SCALARS)]
  if all((records[name] == constant[name]).all() for name in names):
    return records
  return None


def _constant(dimension):
  """Returns a record, [], with what is the same in all.

  Args:
    dimension: Values of the descriptor.

  Returns:
    [] array of the records' dtype, in which `head` and, before each scalar, its
    tag are set.
  """
  datum = datum_bytes.float_header(dimension)
  size = len(datum) + 4 * dimension
  body = wire.delimited(_DESCRIPTOR, size)
  tail = 5 * len(_SCALARS)
  head = wire.delimited(_FEATURE, len(body) + size + tail) + body + datum
  fields = [("head", np.uint8, [len(head)]), ("descriptor", "<f4", [dimension])]
  for name in _SCALARS:
    fields += [(f"{name}_tag", np.uint8), (name, "<f4")]
  record = np.zeros([], dtype=fields)
  record["head"] = np.frombuffer(head, dtype=np.uint8)
  for name, number in _SCALARS.items():
    record[f"{name}_tag"] = wire.fixed32_tag(number)[0]
  return record
