import numpy as np
import pytest

from delf.protos import datum_pb2
from delf.python import wire


def _values():
  rng = np.random.default_rng(0)
  edges = [2**bits + step for bits in range(7, 32, 7) for step in (-1, 0, 1)]
  spread = [rng.integers(0, 2**bits, 50) for bits in range(1, 33)]
  return np.concatenate([*spread, edges, [0, 1, 2**32 - 1]]).astype(np.uint32)


def test_varints_are_those_of_protobuf():
  values = _values()
  packed = wire.pack_varints(values)
  proto = datum_pb2.Uint32List(value=values.tolist())
  assert proto.SerializeToString() == wire.delimited(1, len(packed)) + packed
  np.testing.assert_array_equal(wire.unpack_varints(packed), values)


def test_single_varints_agree_with_packed_ones():
  values = _values()
  packed = wire.pack_varints(values)
  assert packed == b"".join(wire.varint(int(value)) for value in values)
  position = 0
  for value in values:
    found, position = wire.read_varint(packed, position)
    assert found == value
  assert position == len(packed)


@pytest.mark.parametrize("data", [b"\x80", b"\xff" * 9 + b"\x7f", b"\x80" * 20])
def test_bad_varints(data):
  with pytest.raises(ValueError):
    wire.read_varint(data, 0)
  with pytest.raises(ValueError):
    wire.unpack_varints(data)


def test_varints_over_32_bits_are_refused_not_cut():
  with pytest.raises(ValueError):
    wire.unpack_varints(wire.varint(2**32))


def test_fields_do_not_reach_over_their_message():
  data = wire.delimited(2, 3) + b"abc"
  assert list(wire.delimited_fields(data)) == [(2, 2, 5)]
  for length in range(1, len(data)):
    with pytest.raises(ValueError):
      list(wire.delimited_fields(data[:length]))
  with pytest.raises(ValueError):
    list(wire.delimited_fields(data, 0, 4))
