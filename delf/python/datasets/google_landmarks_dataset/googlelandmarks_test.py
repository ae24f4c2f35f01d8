import io
import threading

import cv2
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from delf.base import errors
from delf.python.datasets.google_landmarks_dataset import googlelandmarks
from delf.records import stream, tfrecord


def _jpeg(seed, size=(48, 36), mode="RGB"):
  pixels = np.random.default_rng(seed).integers(0, 256, [4, 5, 3], np.uint8)
  image = PIL.Image.fromarray(pixels).resize(size).convert(mode)
  data = io.BytesIO()
  image.save(data, "JPEG", quality=95)
  return data.getvalue()


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _record(**features):
  named = {f"image/{k.replace('_', '/')}": v for k, v in features.items()}
  features = {name: _feature(value) for name, value in named.items()}
  example = tf.train.Example(features=tf.train.Features(feature=features))
  return example.SerializeToString()


def _write(path, records):
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record)


def _photo(i, label=None, **more):
  label = i if label is None else label
  return _record(
    encoded=_jpeg(i), class_label=label, id=f"id{i}".encode(), **more
  )


@pytest.fixture(scope="module")
def pattern(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  _write(folder / "train-00000-of-00002", map(_photo, range(4)))
  _write(folder / "train-00001-of-00002", map(_photo, range(4, 7)))
  return str(folder / "train*")


def _draw(pattern, number, **options):
  dataset = googlelandmarks.CreateDataset(pattern, 33, 4, **options)
  return [(a.numpy(), b.numpy()) for a, b in dataset.take(number)]


def test_images_are_normalised_as_the_original_s(goldens):
  with np.load(goldens / "fe_normalize.npz") as golden:
    image = golden["in_image"]
    found = googlelandmarks.NormalizeImages(image)
    np.testing.assert_array_equal(found, golden["gld_default"])
    found = googlelandmarks.NormalizeImages(image, 128.0, 128.0)
    np.testing.assert_array_equal(found, golden["gld_128"])


def test_records_of_the_original_are_read(goldens, tmp_path):
  with np.load(goldens / "train_models.npz") as golden:
    (tmp_path / "a").write_bytes(golden["tfrecord_bytes"].tobytes())
  dataset = googlelandmarks.CreateDataset(str(tmp_path / "a"), 33, 2)
  # They hold no JPEG, and are read as far as that.
  with (
    pytest.raises(errors.InputError, match="id[01].*JPEG"),
    googlelandmarks.clear_errors(),
  ):
    next(iter(dataset))


def test_an_epoch_is_every_photo_once_resized_as_by_tensorflow(pattern):
  drawn = _draw(pattern, -1, repeat=False)
  labels = np.concatenate([labels for _, labels in drawn])
  np.testing.assert_array_equal(labels, range(7))
  assert labels.dtype == np.int64
  for i, image in enumerate(np.concatenate([images for images, _ in drawn])):
    decoded = tf.io.decode_jpeg(_jpeg(i), dct_method="INTEGER_ACCURATE")
    expected = tf.image.resize((tf.cast(decoded, tf.float32) - 128) / 128,
                               [33, 33])  # fmt: skip
    np.testing.assert_allclose(image, expected, atol=0.02)


def test_the_resize_is_that_of_tensorflow():
  image = np.random.default_rng(0).integers(0, 256, [40, 57, 3], np.uint8)
  for size in (17, 41, 96):
    out = np.empty([size, size, 3], np.float32)
    stream.to_network(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), size, out)
    normalised = googlelandmarks.NormalizeImages(image, 128, 128)
    expected = tf.image.resize(normalised, [size, size])
    np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.parametrize("augmentation", [False, True])
def test_a_stream_is_the_same_whatever_draws_it(
  pattern, augmentation, monkeypatch
):
  options = {"augmentation": augmentation, "seed": 5}
  whole = _draw(pattern, 6, **options)
  later = _draw(pattern, 3, start_batch=3, **options)
  monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
  single = _draw(pattern, 6, **options)
  for expected, found in zip(whole[3:] + whole, later + single, strict=True):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_epochs_have_an_order_each_that_the_seed_makes(pattern):
  def labels(seed):
    return np.concatenate([b for _, b in _draw(pattern, 21, seed=seed)])

  epochs = labels(1).reshape(12, 7)
  np.testing.assert_array_equal(np.sort(epochs), [range(7)] * 12)
  assert len(np.unique(epochs, axis=0)) > 10
  assert (labels(1) != labels(2)).any()


def test_augmentation_differs_by_position_and_seed(tmp_path):
  _write(tmp_path / "one", [_photo(3)])
  first, second = (
    _draw(str(tmp_path / "one"), 2, augmentation=True, seed=seed)
    for seed in (0, 1)
  )
  images = np.concatenate([a for drawn in (first, second) for a, _ in drawn])
  assert len(np.unique(images.reshape(16, -1), axis=0)) == 16
  assert -1 <= images.min() < images.max() < 1


def _tensorflow_s_crop(size):
  @tf.function
  def crop(i):
    begin, size_of_crop, _ = tf.image.stateless_sample_distorted_bounding_box(
      size, tf.zeros([1, 0, 4]), [i, 7], 0.0, (3 / 4, 4 / 3), (0.08, 1.0), 100,
      True
    )  # fmt: skip
    return tf.concat([begin[:2], size_of_crop[:2]], axis=0)

  return crop


def test_crops_are_drawn_as_by_tensorflow():
  height, width, number = 300, 400, 2000
  ours = np.array([
    stream.window(height, width, random)
    for random in stream.draw(0, 0, number)
  ])  # fmt: skip
  theirs = tf.function(tf.map_fn)(
    _tensorflow_s_crop([height, width, 3]), tf.range(number)
  ).numpy()
  np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.05)
  np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)
  y, x, h, w = ours.T
  assert (y.min(), x.min()) == (0, 0)
  assert (y + h).max() <= height and (x + w).max() <= width
  assert (h * w).min() >= 0.079 * height * width
  assert (w / h).min() > 0.74 and (w / h).max() < 1.35


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_any_photo_can_be_cropped(size):
  for random in np.append(stream.draw(0, 0, 50), [[1 - 1e-16] * 4], axis=0):
    y, x, height, width = stream.window(*size, random)
    assert 0 <= y < y + height <= size[0]
    assert 0 <= x < x + width <= size[1]


def test_grey_photos_have_three_channels_and_exif_is_not_applied(tmp_path):
  image = PIL.Image.fromarray(np.uint8([[0, 255]] * 2)).resize((32, 32))
  exif = PIL.Image.Exif()
  exif[0x112] = 6  # Turn it.
  data = io.BytesIO()
  image.save(data, "JPEG", exif=exif)
  record = _record(encoded=data.getvalue(), class_label=0, id=b"grey")
  _write(tmp_path / "a", [record])
  ((images, _),) = _draw(str(tmp_path / "a"), 1, repeat=False)
  assert images.shape == (1, 33, 33, 3)
  assert images[0, 16, 1].max() < -0.9 and images[0, 16, -2].min() > 0.9


def _cut(i):
  return _record(encoded=_jpeg(i)[:500], class_label=0, id=b"cut")


_BAD = {
  "label": (_photo(3, label=5), "record 'id3'.*label 5 is not from 0 to 4"),
  "negative": (_photo(3, label=-1), "label -1 is not from 0 to 4"),
  "no label": (_record(encoded=_jpeg(0), id=b"x"), "'x'.*image/class/label"),
  "no image": (_record(class_label=1, id=b"x"), "'x'.*image/encoded"),
  "other": (b"what is this", "another kind"),
  "cut": (_cut(0), "record 'cut'.*JPEG is cut"),
  "no jpeg": (_record(encoded=b"PNG", class_label=0, id=b"x"), "'x'.*no JPEG"),
}


@pytest.mark.parametrize("kind", _BAD)
def test_a_bad_record_is_named(kind, tmp_path):
  record, words = _BAD[kind]
  _write(tmp_path / "some", [_photo(0), record, _photo(1)])
  dataset = googlelandmarks.CreateDataset(
    str(tmp_path / "some"), 33, 3, num_classes=5, repeat=False
  )
  with (
    pytest.raises(errors.InputError, match=words) as caught,
    googlelandmarks.clear_errors(),
  ):
    next(iter(dataset))
  assert "some" in caught.value.path
  assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
  path = tmp_path / "some"
  _write(path, [_photo(0)] * 2)
  whole = path.read_bytes()
  path.write_bytes(whole[:-30])
  with pytest.raises(errors.InputError, match="some.*cut or damaged at byte"):
    googlelandmarks.CreateDataset(str(path))
  path.write_bytes(whole[:600] + b"?" + whole[601:])
  with (
    pytest.raises(errors.InputError, match="some.*record at byte 0 is damaged"),
    googlelandmarks.clear_errors(),
  ):
    next(iter(googlelandmarks.CreateDataset(str(path), repeat=False)))
  path.write_text("id,url,landmark_id\n")
  with pytest.raises(errors.InputError, match="at its start"):
    googlelandmarks.CreateDataset(str(path))
  path.write_bytes(b"")
  with pytest.raises(errors.InputError, match="some have no records"):
    googlelandmarks.CreateDataset(str(path))
  with pytest.raises(FileNotFoundError, match="nowhere"):
    googlelandmarks.CreateDataset(str(tmp_path / "nowhere*"))


def test_other_errors_stay():
  with pytest.raises(tf.errors.OpError), googlelandmarks.clear_errors():
    tf.io.decode_jpeg(b"")


def test_the_numbers_of_classes_are_those_of_google_landmarks():
  assert googlelandmarks.GoogleLandmarksInfo().num_classes == {
    "gld_v1": 14951,
    "gld_v2": 203094,
    "gld_v2_clean": 81313,
  }


def test_batches_are_divided_among_replicas(pattern):
  dataset = googlelandmarks.CreateDataset(pattern, 33, 4)
  strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
  images, _ = next(iter(strategy.experimental_distribute_dataset(dataset)))
  assert images.shape == (4, 33, 33, 3)


def test_no_thread_is_left_behind(pattern, monkeypatch):
  monkeypatch.setattr(stream.concurrency, "core_count", lambda: 3)
  options = stream.Options(image_size=33, batch_size=12)
  batches = stream.Stream(tfrecord.RecordFiles(pattern), options)
  used, image = set(), batches._image

  def watched(*args):
    used.add(threading.current_thread())
    return image(*args)

  monkeypatch.setattr(batches, "_image", watched)
  before = set(threading.enumerate())
  batches.batch(0)
  assert used and not used & before  # Made in threads of its own,
  assert not set(threading.enumerate()) - before  # which have ended.
