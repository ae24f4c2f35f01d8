import os
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from delf.base import errors
from delf.records import tfrecord


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
  masked = ((expected >> 15 | expected << 17) + 0xA282EAD8) % 2**32
  assert tfrecord.masked_crc32c(data) == masked


def test_checksums_are_tensorflow_s(tmp_path):
  generator = np.random.default_rng(0)
  sizes = [*range(20), 255, 256, 257, 4093, 100_001]
  path = tmp_path / "records"
  for data in map(generator.bytes, sizes):
    with tf.io.TFRecordWriter(str(path)) as writer:
      writer.write(data)
    written = path.read_bytes()
    for part, end in ((written[:8], written[8:12]), (data, written[-4:])):
      assert tfrecord.masked_crc32c(part) == int.from_bytes(end, "little")


@pytest.fixture
def written(tmp_path):
  generator = np.random.default_rng(0)
  records = [generator.bytes(n) for n in (5, 3000, 0, 70, 900, 1)]
  for i in range(3):
    with tf.io.TFRecordWriter(str(tmp_path / f"a-{i}")) as writer:
      for record in records[2 * i : 2 * i + 2]:
        writer.write(record)
  return tmp_path, records


@pytest.fixture(params=["by any thread", "by one at a time"])
def reading(request, monkeypatch):
  """Files are read as on most systems, and as where there is no `pread`."""
  if request.param == "by one at a time":
    monkeypatch.delattr(os, "pread", raising=False)


@pytest.mark.usefixtures("reading")
def test_records_are_read_in_any_order_by_any_thread(written, monkeypatch):
  folder, records = written
  monkeypatch.setattr(tfrecord, "_MOST_OPEN", 2)
  read = tfrecord.RecordFiles(str(folder / "a-*"))
  assert len(read) == 6
  order = np.random.default_rng(1).integers(0, 6, 300)
  with futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(read.read, order))
  assert found == [records[i] for i in order]
  assert read.path(3) == str(folder / "a-1")


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("place", [0, 9, 12, 500, 3000 + 12])
def test_any_changed_byte_is_seen(place, written):
  folder, _ = written
  read = tfrecord.RecordFiles([str(folder / "a-0")])
  data = bytearray((folder / "a-0").read_bytes())
  data[5 + 16 + place] ^= 1
  (folder / "a-0").write_bytes(data)
  assert len(read.read(0)) == 5
  for _ in range(2):
    with pytest.raises(errors.InputError, match="a-0.*at byte 21 is damaged"):
      read.read(1)


def test_shards_that_are_missing_are_named_once(tmp_path, caplog):
  def path(shard, number=4):
    return tmp_path / f"train-{shard:05d}-of-{number:05d}"

  for each in (path(0), path(1), path(3), path(0, 2), path(1, 2)):
    with tf.io.TFRecordWriter(str(each)) as writer:
      writer.write(b"a")
  # What a pattern leaves out is left out on purpose.
  given = str(tmp_path / "train-0000[03]*4")
  with caplog.at_level("WARNING", "absl"):
    for _ in range(2):
      tfrecord.RecordFiles(given)
  (record,) = caplog.records
  assert record.getMessage() == (
    f"shards of records are missing, and the photos in them: {path(2)}"
  )
  assert tfrecord.missing_shards(["a-0", "b-1-of-9999999"]) == []
  path(2).touch()
  assert tfrecord.missing_shards([str(path(3)), str(path(0, 2))]) == []


@pytest.mark.usefixtures("reading")
def test_files_that_have_become_short_are_seen(written):
  folder, _ = written
  read = tfrecord.RecordFiles(str(folder / "a-0"))
  os.truncate(folder / "a-0", 100)
  with pytest.raises(errors.InputError, match="at byte 21 is damaged"):
    read.read(1)


def test_a_file_that_is_gone_is_named(written):
  folder, _ = written
  read = tfrecord.RecordFiles(str(folder / "a-0"))
  (folder / "a-0").unlink()
  with pytest.raises(errors.InputError, match="a-0: .* read: No such file"):
    read.read(1)
