import numpy as np
import pytest

from delf.base import errors
from delf.formats import wire
from delf.protos import datum_pb2


def _values():
  rng = np.random.default_rng(0)
  edges = [2**bits + step for bits in range(7, 32, 7) for step in (-1, 0, 1)]
  spread = [rng.integers(0, 2**bits, 50) for bits in range(1, 33)]
  return np.concatenate([*spread, edges, [0, 1, 2**32 - 1]]).tolist()


def test_varints_are_those_of_protobuf():
  values = _values()
  packed = b"".join(map(wire.varint, values))
  proto = datum_pb2.Uint32List(value=values)
  assert proto.SerializeToString() == wire.delimited(1, len(packed)) + packed
  position = 0
  for value in values:
    found, position = wire.read_varint(packed, position)
    assert found == value
  assert position == len(packed)


@pytest.mark.parametrize(
  "data",
  [b"", b"\x80", b"\x80" * 5 + b"\x00", b"\x80" * 20, wire.varint(2**32)],
)
def test_bad_varints(data):
  """Cut, of over 5 bytes, or of over 32 bits: protobuf has no such length."""
  with pytest.raises(ValueError):
    wire.read_varint(data, 0)


def test_a_list_of_another_number_is_not_the_list():
  data = wire.delimited(2, 3) + b"abc"
  assert wire.packed_span(data, 0, 5, number=2) == (2, 5)
  with pytest.raises(ValueError, match="field . instead of the list, 1"):
    wire.packed_span(data, 0, 5)


def test_floats_keep_their_shape():
  for shape in ([], [0], [2, 3]):
    found = wire.to_float32(np.ones(shape, dtype=">f8", order="F"))
    assert found.shape == tuple(shape)
    assert found.dtype == "<f4"
    assert found.flags.c_contiguous
  with pytest.raises(errors.InputError, match="scores must be numbers"):
    wire.to_float32(["a"], "scores")


def test_fields_do_not_reach_over_their_message():
  data = wire.delimited(2, 3) + b"abc"
  assert list(wire.delimited_fields(data)) == [(2, 2, 5)]
  for length in range(1, len(data)):
    with pytest.raises(ValueError):
      list(wire.delimited_fields(data[:length]))
  with pytest.raises(ValueError):
    list(wire.delimited_fields(data, 0, 4))
