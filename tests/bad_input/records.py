"""Rows of the table of bad input: records to train on."""

import io

import numpy as np
import PIL.Image

from delf.python.training import build_image_dataset

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}
_SCRIPT = "build_image_dataset.py"
SCRIPTS = {_SCRIPT: build_image_dataset}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _photo(path, seed=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  generator = np.random.default_rng(seed)
  pixels = generator.integers(0, 256, [32, 40, 3], dtype=np.uint8)
  PIL.Image.fromarray(pixels).save(path)
  return path


def _build(folder, *flags):
  out = folder.parent / "records"
  return [_SCRIPT, f"--output_directory={out}", "--num_shards=2", *flags]


def _table(folder, *lines):
  _photo(folder / "a.jpg")
  path = folder.parent / "photos.csv"
  path.write_text("\n".join(lines) + "\n")
  return _build(
    folder, f"--images_csv_path={path}", f"--images_directory={folder}"
  )


@_case("table without the column of images", "a column image", "picture_of")
def _no_image_column(folder):
  return _table(folder, "picture_of,label", "a.jpg,x")


@_case("table without the column of classes", "a column label", "what")
def _no_label_column(folder):
  return _table(folder, "image,what", "a.jpg,x")


@_case("train.csv without landmarks", "train.csv", "landmark_id", "id,url")
def _no_landmarks(folder):
  _photo(folder / "a.jpg")
  path = folder.parent / "train.csv"
  path.write_text("id,url\na,b\n")
  return _build(
    folder, f"--train_directory={folder}", f"--train_csv_path={path}"
  )


@_case("landmark of a number that is none", "train.csv", "10000000", "7" * 18)
def _large_landmark(folder):
  _photo(folder / "a.jpg")
  path = folder.parent / "train.csv"
  path.write_text(f"id,url,landmark_id\na,b,{'7' * 18}\n")
  return _build(
    folder, f"--train_directory={folder}", f"--train_csv_path={path}"
  )


@_case("table with a row that is short", "photos.csv, line 3", "image,label")
def _short_row(folder):
  return _table(folder, "image,label", "a.jpg,x", "b.jpg")


@_case("image that is listed and absent", "1 of 2", "missing", "b.jpg")
def _absent(folder):
  return _table(folder, "image,label", "a.jpg,x", "b.jpg,y")


@_case(
  "images that are listed and all absent", "none of the photos", "photos.csv"
)
def _all_absent(folder):
  return _table(folder, "image,label", "b.jpg,x")


@_case("image of two classes", "a.jpg has two classes", "x and y")
def _two_classes(folder):
  return _table(folder, "image,label", "a.jpg,x", "a.jpg,y")


@_case("class without images", "empty", "no images")
def _empty_class(folder):
  _photo(folder / "a" / "a.jpg")
  (folder / "empty").mkdir()
  return _build(folder, f"--class_folders={folder}")


@_case("photo for records that is cut", "b.jpg", "cut", "skipped")
def _cut_photo(folder):
  _photo(folder / "a" / "a.jpg")
  path = _photo(folder / "a" / "b.jpg")
  path.write_bytes(path.read_bytes()[:-300])
  return _build(folder, f"--class_folders={folder}")


@_case("folder of training photos without photos", "no photos", "pattern")
def _no_photos(folder):
  path = folder.parent / "train.csv"
  path.write_text("id,url,landmark_id\na,b,1\n")
  return _build(
    folder, f"--train_directory={folder}", f"--train_csv_path={path}"
  )


@_case("validation with all of the photos", "share", "1.0")
def _share(folder):
  _photo(folder / "a" / "a.jpg")
  return _build(
    folder,
    f"--class_folders={folder}",
    "--generate_train_validation_splits",
    "--validation_split_size=1",
  )


@_case("folder with records of other settings", "num_shards 3", "overwrite")
def _other_settings(folder):
  from delf.records import photo_list, shards

  _photo(folder / "a" / "a.jpg")
  listed = photo_list.list_folders(folder)
  out = folder.parent / "records"
  shards.build(out, listed, None, shards.Options(num_shards=3), lambda _: None)
  return _build(folder, f"--class_folders={folder}")


def _draw(folder, records, num_classes=2, damage=None):
  """Returns a function that draws the first batch of records."""
  import tensorflow as tf

  from delf.python.datasets.google_landmarks_dataset import googlelandmarks

  path = folder / "train-00000-of-00001"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)
  if damage:
    path.write_bytes(damage(path.read_bytes()))

  def draw():
    with googlelandmarks.clear_errors():
      next(
        iter(
          googlelandmarks.CreateDataset(
            str(path), 33, 2, num_classes=num_classes, repeat=False
          )
        )
      )

  return draw


def _record(identity, label, data=None):
  from delf.records import photo_list, tfrecord

  if data is None:
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (40, 32)).save(encoded, "JPEG")
    data = encoded.getvalue()
  photo = photo_list.Photo("", identity, label)
  return tfrecord.serialize(photo, data, 32, 40)


@_case("records of another label space", "train-0", "'b'", "0 to 1", "label 7")
def _labels(folder):
  return _draw(folder, [_record("a", 0), _record("b", 7)])


@_case("records without labels", "train-0", "'a'", "image/class/label")
def _no_labels(folder):
  return _draw(folder, [_record("a", None)])


@_case("record whose JPEG is cut", "train-0", "'a'", "cut")
def _cut_record(folder):
  whole = _record("a", 0)
  data = whole[whole.index(b"\xff\xd8") : whole.index(b"\xff\xd9") - 40]
  return _draw(folder, [_record("a", 0, data)])


@_case("record of something else", "train-0", "another kind")
def _other_record(folder):
  return _draw(folder, [b"\xff\xff\xff"])


@_case("record that is damaged", "train-0", "damaged", "byte 0")
def _damaged(folder):
  def damage(data):
    return data[:300] + bytes([data[300] ^ 4]) + data[301:]

  return _draw(folder, [_record("a", 0)], damage=damage)


@_case("file of records that is cut", "train-0", "cut", "byte")
def _cut_file(folder):
  return _draw(
    folder, [_record("a", 0), _record("b", 1)], damage=lambda d: d[:-9]
  )


@_case("file that is no TFRecord file", "train-0", "TFRecord")
def _no_records(folder):
  return _draw(folder, [], damage=lambda _: b"id,url,landmark_id\n")


@_case("records that are missing", "nowhere", "no such TFRecord files")
def _missing(folder):
  from delf.python.datasets.google_landmarks_dataset import googlelandmarks

  return lambda: googlelandmarks.CreateDataset(str(folder / "nowhere*"))
