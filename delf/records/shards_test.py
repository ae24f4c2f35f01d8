import csv
import dataclasses
import errno
import io
import json
import shutil

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from delf.base import errors
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.records import photo_list, shards, tfrecord

_CLASSES = {"bridge": 5, "tower": 3, "wall": 1}


def _photo(path, seed=0, mode="RGB", **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 256, [6, 8, 3], np.uint8)
  image = PIL.Image.fromarray(pixels).resize((64, 48)).convert(mode)
  image.save(path, **options)
  return path


@pytest.fixture
def folders(tmp_path):
  seed = 0
  for name, number in _CLASSES.items():
    for i in range(number):
      _photo(tmp_path / "photos" / name / f"{i}.jpg", seed := seed + 1)
  return tmp_path / "photos"


def _build(training, out, said=None, **options):
  options = shards.Options(**{"num_shards": 3, "seed": 1, **options})
  say = (said if said is not None else []).append
  return shards.build(out, training, None, options, say)


def _records(out, split_name):
  """Returns {id: label} of the records of a split, in their order."""
  found = {}
  for path in sorted(out.glob(f"{split_name}-*")):
    for data in tf.data.TFRecordDataset(str(path)):
      features = tf.train.Example.FromString(data.numpy()).features.feature
      name = features["image/id"].bytes_list.value[0].decode()
      label = features["image/class/label"].int64_list.value
      found[name] = label[0] if label else None
  return found


def _tree(folder):
  return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_a_record_is_the_original_s(goldens):
  meta = json.loads((goldens / "train_meta.json").read_text())
  photo = photo_list.Photo("a.jpg", "0123", 7)
  record = tfrecord.serialize(photo, b"\x4a\x50EGDATA", 10, 20)
  assert record.hex() == meta["example_hex_deterministic"]
  assert shards.shard_bounds(10, 3).tolist() == meta["shard_spacing_10_over_3"]


@pytest.mark.parametrize(
  ("key", "number", "classes", "seed", "share"),
  [("splits_seed0_0.2", 23, 4, 0, 0.2), ("splits_seed42_0.5", 9, 5, 42, 0.5)],
)
def test_the_split_is_the_original_s(
  key, number, classes, seed, share, goldens
):
  golden = json.loads((goldens / "train_meta.json").read_text())[key]
  photos = [
    photo_list.Photo(f"p{i}", f"f{i}", i % classes) for i in range(number)
  ]
  parts = photo_list.train_and_validation(photos, share, seed)
  for part, name in zip(parts, ("train", "validation"), strict=True):
    found = [photo.path for photo in part]
    expected = golden[name]["image_paths"]
    if number == 9:
      # There it leaves the class of p4 without training images.
      assert "p4" in (found if name == "train" else expected)
      assert set(found) - {"p4"} == set(expected) - {"p4"}
      continue
    assert found == expected
    assert [photo.identity for photo in part] == golden[name]["file_ids"]
    assert [photo.label for photo in part] == golden[name]["labels"]


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_no_class_is_left_without_training(share):
  sizes = [1, 2, 3, 10]
  labels = np.repeat(range(4), sizes)
  photos = [photo_list.Photo(str(i), str(i), x) for i, x in enumerate(labels)]
  training, validation = photo_list.train_and_validation(photos, share, 0)
  assert {photo.label for photo in training} == {0, 1, 2, 3}
  assert {photo.label for photo in validation} == {1, 2, 3}
  assert sorted(p.path for p in training + validation) == sorted(
    photo.path for photo in photos
  )


@pytest.mark.parametrize("share", [0, 1, -0.2, 20])
def test_a_split_needs_a_share(share):
  with pytest.raises(
    errors.InputError, match="share .* is not between 0 and 1"
  ):
    photo_list.train_and_validation([], share, 0)


def test_records_of_folders(folders, tmp_path):
  out = tmp_path / "out"
  built = _build(photo_list.list_folders(folders), out, validation_share=0.34)
  assert built.is_complete
  train, validation = _records(out, "train"), _records(out, "validation")
  assert sorted(train | validation) == sorted(
    path.relative_to(folders).as_posix() for path in folders.rglob("*.jpg")
  )
  for name, label in (train | validation).items():
    assert list(_CLASSES)[label] == name.split("/")[0]
  labels = photo_list.read_labels(out)
  assert labels == built.labels
  assert labels.names == ["bridge", "tower", "wall"]
  assert labels.counts == {"train": [4, 2, 1], "validation": [1, 1, 0]}
  dataset = googlelandmarks.CreateDataset(
    str(out / "train*"), 33, 7, num_classes=len(labels.names)
  )
  _, drawn = next(iter(dataset))
  assert np.bincount(drawn).tolist() == [4, 2, 1]


def test_a_jpeg_is_kept_to_the_byte_and_others_become_one(tmp_path):
  folder = tmp_path / "photos" / "a"
  whole = _photo(folder / "rgb.jpg")
  _photo(folder / "grey.jpg", mode="L")
  _photo(folder / "cmyk.jpg", mode="CMYK")
  _photo(folder / "b.png")
  _photo(folder / "palette.gif", mode="P")
  out = tmp_path / "out"
  assert _build(photo_list.list_folders(folder.parent), out).is_complete
  assert len(_records(out, "train")) == 5
  for path in out.glob("train*"):
    for data in tf.data.TFRecordDataset(str(path)):
      features = tf.train.Example.FromString(data.numpy()).features.feature
      encoded = features["image/encoded"].bytes_list.value[0]
      name = features["image/id"].bytes_list.value[0]
      decoded = tf.io.decode_jpeg(encoded)
      assert decoded.shape == (48, 64, 3)
      assert features["image/height"].int64_list.value == [48]
      assert features["image/width"].int64_list.value == [64]
      if name == b"a/rgb.jpg":
        assert encoded == whole.read_bytes()
      if name == b"a/b.png":
        pixels = np.asarray(PIL.Image.open(folder / "b.png")).astype(int)
        assert np.abs(pixels - decoded.numpy()).mean() < 4


def test_bad_photos_are_left_out_and_reported_by_each_run(folders, tmp_path):
  path = folders / "bridge" / "0.jpg"
  path.write_bytes(path.read_bytes()[:400])
  (folders / "tower" / "1.jpg").write_bytes(b"")
  damaged = bytearray((folders / "bridge" / "1.jpg").read_bytes())
  damaged[170:200] = b"\xff" * 30  # In a table of the header.
  (folders / "bridge" / "1.jpg").write_bytes(damaged)
  out = tmp_path / "out"
  for _ in range(2):
    said = []
    built = _build(photo_list.list_folders(folders), out, said)
    assert not built.is_complete
    assert len(said) == 3
    for name, words in (
      ("bridge/0.jpg", "the JPEG is cut"),
      ("bridge/1.jpg", "a damaged JPEG: "),
      ("tower/1.jpg", ""),
    ):
      assert any(f"{folders / name}: {words}" in line for line in said)
    assert all(line.endswith("; skipped") for line in said)
    assert built.written == {"train": 6}
    assert photo_list.read_labels(out).counts == {"train": [3, 2, 1]}
    assert len(_records(out, "train")) == 6


class _Killed(BaseException):
  pass


def test_a_run_goes_on_shard_by_shard(folders, tmp_path, monkeypatch):
  listed = photo_list.list_folders(folders)
  expected, out = tmp_path / "expected", tmp_path / "out"
  _build(listed, expected)
  read, done = tfrecord.read_photo_bytes, []

  def killed(path):
    done.append(path)
    if len(done) == 5:
      raise _Killed
    return read(path)

  monkeypatch.setattr(tfrecord, "read_photo_bytes", killed)
  with pytest.raises(_Killed):
    _build(listed, out)
  # What kill -9 leaves besides.
  half = out / f".train-00001-of-00003.{'0' * 32}"
  half.write_bytes(b"half")
  assert [p.name for p in out.glob("train*")] == ["train-00000-of-00003"]
  assert not (out / "labels.json").exists()
  first = (out / "train-00000-of-00003").stat()
  monkeypatch.setattr(tfrecord, "read_photo_bytes", read)
  _build(listed, out)
  assert (out / "train-00000-of-00003").stat().st_mtime_ns == first.st_mtime_ns
  assert _tree(out) == _tree(expected)


def test_a_shard_that_is_short_is_written_again(folders, tmp_path):
  listed, out = photo_list.list_folders(folders), tmp_path / "out"
  _build(listed, out)
  expected = _tree(out)
  shard = out / "train-00001-of-00003"
  shard.write_bytes(shard.read_bytes()[:-40])
  (out / "train-00002-of-00003").unlink()
  _build(listed, out)
  found = _tree(out)
  for name in expected:
    assert name.endswith(".jsonl") or found[name] == expected[name]


@pytest.mark.parametrize("change", ["shards", "seed", "split", "photo"])
def test_records_of_other_settings_are_not_mixed(change, folders, tmp_path):
  out = tmp_path / "out"
  _build(photo_list.list_folders(folders), out)
  options = {
    "shards": {"num_shards": 2},
    "seed": {"seed": 2},
    "split": {"validation_share": 0.2},
    "photo": {},
  }[change]
  if change == "photo":
    shutil.move(folders / "tower" / "1.jpg", folders / "tower" / "7.jpg")
  listed = photo_list.list_folders(folders)
  before = _tree(out)
  with pytest.raises(
    errors.InputError,
    match="has shards of other photos or settings: with .*--overwrite",
  ):
    _build(listed, out, **options)
  assert _tree(out) == before
  _build(listed, out, overwrite=True, **options)
  number = len(_records(out, "train")) + len(_records(out, "validation"))
  assert number == 9


def test_what_is_overwritten_leaves_nothing_of_other_photos(folders, tmp_path):
  listed, out = photo_list.list_folders(folders), tmp_path / "out"
  old = dataclasses.replace(listed, old_labels=[3, 5, 8])
  _build(old, out, validation_share=0.34)
  assert {"relabeling.csv", "labels.json"} <= set(_tree(out))
  (out / "notes.txt").write_text("mine")
  _build(listed, out, overwrite=True)
  assert not list(out.glob("validation*"))
  assert len(_records(out, "train")) == 9
  assert not (out / "relabeling.csv").exists()
  assert (out / "notes.txt").exists()


def test_shards_of_another_split_are_not_mixed(folders, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  (out / "validation-00000-of-00002").write_bytes(b"")
  with pytest.raises(errors.InputError, match="validation-00000-of-00002"):
    _build(photo_list.list_folders(folders), out)


def test_a_full_disk_is_one_line(folders, tmp_path, monkeypatch):
  class Full(io.BytesIO):
    def write(self, _):
      raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(shards, "open", lambda *_: Full(), raising=False)
  with pytest.raises(OSError, match="No space left on device: .*train-00000"):
    _build(photo_list.list_folders(folders), tmp_path / "out")
  assert not list((tmp_path / "out").glob("*train*"))


def test_shards_of_another_program_are_not_mixed(folders, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  (out / "train-00000-of-00128").write_bytes(b"")
  with pytest.raises(errors.InputError, match="train-00000-of-00128"):
    _build(photo_list.list_folders(folders), out)


def _table(path, header, *rows):
  with open(path, "w", newline="") as file:
    csv.writer(file).writerows([header, *rows])
  return str(path)


@pytest.mark.parametrize(
  ("header", "row"),
  [
    (("image", "label"), "{}.jpg,{}"),
    (("Filename", "Class"), "{}.jpg,{}"),
    (("id", "url", "landmark_id"), "x,{}.jpg,{}"),
    (("id", "url", "landmark_id"), "{},http://example.org/x.jpg,{}"),
    (("width", "path", "category"), "3,{}.jpg,{}"),
  ],
)
def test_tables_are_known_by_their_columns(header, row, tmp_path):
  names = ["b", "a", "c", "d"]
  labels = ["10", "9", "9", "10"]
  for i, name in enumerate(names):
    _photo(tmp_path / "photos" / f"{name}.jpg", i)
  rows = [
    row.format(*pair).split(",") for pair in zip(names, labels, strict=True)
  ]
  path = _table(tmp_path / "table.csv", header, *rows)
  listed = photo_list.list_csv(path, tmp_path / "photos")
  assert listed.classes == ["9", "10"]  # By number.
  assert [photo.label for photo in listed.photos] == [1, 0, 0, 1]
  assert not listed.absent


def test_what_a_table_lists_and_is_absent_is_reported(tmp_path):
  _photo(tmp_path / "a.jpg")
  path = _table(
    tmp_path / "t.csv", ("file", "label"), ("a.jpg", "x"), ("b.jpg", "y")
  )
  said = []
  built = _build(photo_list.list_csv(path), tmp_path / "out", said)
  assert not built.is_complete
  assert said == ["1 of 2 listed images are missing: b.jpg"]
  assert built.labels.names == ["x"]


@pytest.mark.parametrize(
  ("lines", "words"),
  [
    ((("photograph", "label"), ("a.jpg", "x")), "a column image"),
    ((("image", "what"), ("a.jpg", "x")), "a column label"),
    ((("image", "label"), ("a.jpg",)), "line 2"),
    ((("image", "label"), ("a.jpg", "")), "line 2"),
    ((("image", "label"), ("a.jpg", "x"), ("a.jpg", "y")), "x and y"),
    ((("image", "label"), ("b.jpg", "x")), "none of the photos listed in"),
  ],
)
def test_other_tables_are_refused(lines, words, tmp_path):
  _photo(tmp_path / "a.jpg")
  path = _table(tmp_path / "t.csv", *lines)
  with pytest.raises(errors.InputError, match=words):
    photo_list.list_csv(path)


def test_a_number_of_thousands_of_digits_is_a_name(tmp_path):
  _photo(tmp_path / "a.jpg")
  _photo(tmp_path / "b.jpg")
  path = _table(
    tmp_path / "t.csv", ("image", "label"), ("a.jpg", "9" * 5000), ("b.jpg", 7)
  )
  assert photo_list.list_csv(path).classes == ["7", "9" * 5000]


def test_photos_beside_the_folders_of_classes_are_reported(folders, tmp_path):
  _photo(folders / "stray.jpg")
  (folders / "notes.txt").write_text("")
  said = []
  _build(photo_list.list_folders(folders), tmp_path / "out", said)
  assert said == [f"1 images have no class: {folders / 'stray.jpg'}; skipped"]


def test_folders_need_photos(folders):
  (folders / "empty").mkdir()
  with pytest.raises(errors.InputError, match="empty"):
    photo_list.list_folders(folders)
  with pytest.raises(errors.InputError, match="folder for each class"):
    photo_list.list_folders(folders / "tower")
  with pytest.raises(FileNotFoundError, match="nowhere"):
    photo_list.list_folders(folders / "nowhere")


@pytest.fixture
def landmarks(tmp_path):
  for i, name in enumerate(["abc1", "abd2", "bbc3", "bcc4"]):
    _photo(tmp_path / "train" / name[0] / name[1] / name[2] / f"{name}.jpg", i)
  _table(tmp_path / "train.csv", ("id", "url", "landmark_id"),
         ("abc1", "u", 3), ("abd2", "u", 9), ("bbc3", "u", 3),
         ("none", "u", 5))  # fmt: skip
  _table(tmp_path / "clean.csv", ("landmark_id", "images"),
         (9, "abd2 gone"), (3, "bbc3 abc1"), (5, "none"))  # fmt: skip
  return tmp_path


def test_google_landmarks_by_a_pattern_of_folders(landmarks):
  pattern = str(landmarks / "train/*/*/*/")
  listed = photo_list.list_train(pattern, str(landmarks / "train.csv"))
  assert {p.identity: p.label for p in listed.photos} == {
    "abc1": 3,
    "abd2": 9,
    "bbc3": 3,
  }
  assert listed.absent == ["none"]
  assert [path[-8:] for path in listed.unlisted] == ["bcc4.jpg"]
  assert len(listed.classes) == 10
  assert len({photo.label for photo in listed.photos}) == 2
  path = _table(
    landmarks / "large.csv", ("id", "url", "landmark_id"), ("abc1", "u", 10**17)
  )
  with pytest.raises(errors.InputError, match="large.csv.*under 10000000"):
    photo_list.list_train(pattern, path)
  with pytest.raises(errors.InputError, match="pattern"):
    photo_list.find_photos(str(landmarks / "train"))


def test_the_clean_part_is_relabelled(landmarks, tmp_path):
  listed = photo_list.list_clean(
    str(landmarks / "train/*/*/*/"), str(landmarks / "clean.csv")
  )
  out, said = tmp_path / "out", []
  built = _build(listed, out, said, num_shards=1)
  # Not all of Google Landmarks need be there.
  assert built.is_complete
  assert said == [
    "2 of 5 listed images are missing: gone, none",
    "1 of 3 classes have no image: 5",
  ]
  assert _records(out, "train") == {"abc1": 0, "abd2": 2, "bbc3": 0}
  assert (out / "relabeling.csv").read_text().split() == [
    "new_label,old_label", "0,3", "1,5", "2,9"
  ]  # fmt: skip


def test_test_photos_have_no_labels(landmarks, tmp_path):
  pattern = str(landmarks / "train/*/*/*/")
  training = photo_list.list_train(pattern, str(landmarks / "train.csv"))
  testing = photo_list.list_test(pattern, str(landmarks / "train.csv"))
  options = shards.Options(num_shards=2)
  out = tmp_path / "out"
  shards.build(out, training, testing, options, lambda _: None)
  assert _records(out, "test") == dict.fromkeys(["abc1", "abd2", "bbc3"])
  assert set(photo_list.read_labels(out).counts) == {"train"}
