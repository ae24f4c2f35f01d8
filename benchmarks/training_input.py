"""Speed of the training input: reading, decoding, cropping and resizing photos.

The lower bound is decoding alone: the same JPEGs, in memory, with the same
decoder. The baseline is a plain tf.data pipeline of the same steps. All run in
turns on one core; CPU time is measured, so that other programs do not count.
"""

import argparse
import io
import os
import pathlib
import tempfile
import time

import cv2
import numpy as np
import PIL.Image

_POOL = pathlib.Path(__file__).resolve().parents[2] / "shared/data/train_pool"
_BATCH, _SIDE = 32, 321
_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def _write(path, jpegs):
  """Write one file of records."""
  import tensorflow as tf

  from delf.records import photo_list, tfrecord

  with tf.io.TFRecordWriter(str(path)) as writer:
    for i, data in enumerate(jpegs):
      photo = photo_list.Photo("", str(i), i)
      height, width, _ = tfrecord.read_jpeg_size(data)
      writer.write(tfrecord.serialize(photo, data, height, width))


def _large(jpegs):
  """Return photos as of Google Landmarks: 1024 x 768, with grain."""
  generator = np.random.default_rng(0)
  large = []
  for data in jpegs:
    image = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    image = image.resize((1024, 768), PIL.Image.Resampling.BICUBIC)
    grain = generator.normal(0, 5, [768, 1024, 1])
    pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    PIL.Image.fromarray(pixels).save(encoded, "JPEG", quality=90)
    large.append(encoded.getvalue())
  return large


def _decode(jpegs, number):
  for i in range(number):
    data = np.frombuffer(jpegs[i % len(jpegs)], np.uint8)
    cv2.imdecode(data, _FLAGS)


def _plain(path):
  """Return the plain pipeline, with shuffling in a buffer as is usual."""
  import tensorflow as tf

  features = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
  }

  def parse(data):
    parsed = tf.io.parse_single_example(data, features)
    image = tf.io.decode_jpeg(parsed["image/encoded"], channels=3)
    image = (tf.cast(image, tf.float32) - 128) / 128
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.shape(image), tf.zeros([1, 0, 4]), 0, 0.1, (3 / 4, 4 / 3), (0.08, 1),
      5, True
    )  # fmt: skip
    image = tf.image.resize(tf.slice(image, begin, size), [_SIDE, _SIDE])
    return image, parsed["image/class/label"]

  records = tf.data.TFRecordDataset(str(path)).repeat().shuffle(100, 0)
  return records.map(parse).batch(_BATCH)


class _Counted:
  """Draws batches, and counts those that are made, some of them ahead."""

  def __init__(self, path):
    from delf.python.datasets.google_landmarks_dataset import googlelandmarks
    from delf.records import stream

    make = stream.Stream.batch

    def counted(batches, number):
      self.made += _BATCH
      return make(batches, number)

    self.made = 0
    stream.Stream.batch = counted
    self._batches = iter(
      googlelandmarks.CreateDataset(str(path), augmentation=True)
    )

  def __call__(self, number):
    before = self.made
    _draw(self._batches, number)
    return self.made - before


def _draw(batches, number):
  for _ in range(number // _BATCH):
    next(batches)


def _rates(ways, number, rounds):
  """Return {way: images per second of processor time}, the best round's."""
  best = dict.fromkeys(ways, 0.0)
  for _ in range(rounds):
    for name, way in ways.items():
      start = time.process_time()
      done = way(number) or number
      best[name] = max(best[name], done / (time.process_time() - start))
  return best


def _measure(title, jpegs, number, rounds):
  size = sum(map(len, jpegs)) / len(jpegs) / 1024
  print(f"\n{title}, {size:.0f} KiB each{'images/s':>18}  of decoding alone")
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "train-00000-of-00001")
    _write(path, jpegs)
    plain = iter(_plain(path))
    ways = {
      "decoding alone": lambda n: _decode(jpegs, n),
      "CreateDataset, augmented": _Counted(path),
      "plain tf.data, augmented": lambda n: _draw(plain, n),
    }
    _rates(ways, 8 * _BATCH, 1)  # First batches start threads, and take memory.
    rates = _rates(ways, number, rounds)
  for name, rate in rates.items():
    share = rate / rates["decoding alone"]
    print(f"{name:36} {rate:9.0f}  {share:8.0%}")


def main():
  """Print a table for photos of two sizes."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pool", type=pathlib.Path, default=_POOL)
  parser.add_argument("--quick", action="store_true", help="fewer photos")
  args = parser.parse_args()
  paths = sorted(args.pool.glob("images/**/*.jpg"))
  if not paths:
    print(f"no photos in {args.pool}: not measured")
    return
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  os.environ["CUDA_VISIBLE_DEVICES"] = ""
  cv2.setNumThreads(1)
  jpegs = [path.read_bytes() for path in paths]
  rounds = 2 if args.quick else 7
  step = max(1, len(jpegs) // 40)
  _measure("1024 x 768", _large(jpegs[::step]), 6 * _BATCH, rounds)
  _measure("train_pool, 320 x 240", jpegs, 16 * _BATCH, rounds)


if __name__ == "__main__":
  main()
