import numpy as np
import pytest
import tensorflow as tf

from delf.python.datasets.labelled_records import crc32c


@pytest.mark.parametrize(
  ("data", "expected"),
  [
    (b"", 0),
    (b"a", 0xC1D04330),
    (b"123456789", 0xE3069283),
    # RFC 3720, appendix B.4.
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
  ],
)
def test_known_checksums(data, expected):
  assert crc32c.crc32c(data) == expected


def test_checksums_are_tensorflow_s(tmp_path):
  generator = np.random.default_rng(0)
  sizes = [*range(20), 255, 256, 257, 4093, 100_001]
  path = tmp_path / "records"
  for data in map(generator.bytes, sizes):
    with tf.io.TFRecordWriter(str(path)) as writer:
      writer.write(data)
    written = path.read_bytes()
    for part, end in ((written[:8], written[8:12]), (data, written[-4:])):
      assert crc32c.masked(part) == int.from_bytes(end, "little")
