"""Sample photos, data sets and a detector, written without any download.

All photos are in the wheel of scikit-image (0.24 and later), which takes 0.3 s
to load and is therefore imported inside of functions.
"""

import hashlib
import os
import pathlib
import pickle
import typing

import numpy as np
from PIL import Image, ImageEnhance

from delf.base import files

# The middle of an image and its four corners, each 0.6 of a side, as (ymin,
# xmin, ymax, xmax) in [0, 1]; the middle has the highest score.
BOXES = (
  (0.2, 0.2, 0.8, 0.8),
  (0.0, 0.0, 0.6, 0.6),
  (0.0, 0.4, 0.6, 1.0),
  (0.4, 0.0, 1.0, 0.6),
  (0.4, 0.4, 1.0, 1.0),
)
SCORES = (0.9, 0.5, 0.5, 0.5, 0.5)

# The motorcycle's engine and front wheel, x_min, y_min, x_max, y_max in pixels.
_MOTORCYCLE_BOX = [230.4, 120.6, 690.0, 460.2]
_COFFEE_BOX = [0.0, 0.0, 600.0, 400.0]  # The whole photo.
# Photos that show neither query's subject.
_UNRELATED = ("astronaut", "chelsea", "rocket", "brick", "hubble_deep_field")

_LANDMARKS = ("astronaut", "chelsea", "coffee", "rocket")
_FIRST_LANDMARK = 100  # Lower numbers have no photos, as in the clean part.
_LANDMARK_SIDE = 240  # Longer side in pixels before a view is cropped.
_VIEW_SHARES = (0.6, 0.9)  # Of the sides of the photo.
_VIEW_DEGREES = 10.0  # Largest rotation, in both directions.


class SamplePhotos(typing.NamedTuple):
  """Paths of two photos of one scene, and of an unrelated one."""

  # A motorcycle, 741 x 500 pixels: a stereo pair with a baseline of 19 cm from
  # the Middlebury benchmark of 2014.
  left: pathlib.Path
  right: pathlib.Path
  # A cup of coffee, 600 x 400 pixels, by Rachel Michetti (CC0).
  other: pathlib.Path


class SampleDataset(typing.NamedTuple):
  """Paths of a data set with two queries and eleven other images."""

  images: pathlib.Path  # Folder of `<name>.jpg`.
  # `gnd_sample.pkl`, in the format of Revisited Oxford: each query has two easy
  # images, a hard one and a box.
  ground_truth: pathlib.Path


class SampleLandmarks(typing.NamedTuple):
  """Paths of photos in the layout of Google Landmarks."""

  # Folder of `a/b/c/<id>.jpg`, `train.csv` and `train_clean.csv`.
  train: pathlib.Path
  list_path: pathlib.Path  # Names two photos of one landmark, one a line.


def sample_photos(folder: str | os.PathLike) -> SamplePhotos:
  """Write the sample photos as JPEG files, creating the folder.

  Example:
    >>> import delf
    >>> photos = delf.sample_photos("sample_photos")
    >>> photos.other.name
    'coffee.jpg'
  """
  from skimage import data

  folder = pathlib.Path(folder)
  left, right, _ = data.stereo_motorcycle()
  return SamplePhotos(
    _save(folder / "motorcycle_left.jpg", Image.fromarray(left)),
    _save(folder / "motorcycle_right.jpg", Image.fromarray(right)),
    _save(folder / "coffee.jpg", Image.fromarray(data.coffee())),
  )


def write_dataset(folder: str | os.PathLike) -> SampleDataset:
  """Write a small retrieval data set with ground truth."""
  from skimage import data

  folder = pathlib.Path(folder)
  images = folder / "sample_images"
  left, right, coffee = sample_photos(images)
  with Image.open(right) as photo:
    index = {
      "motorcycle_small": _scaled(photo, 0.5),
      "motorcycle_wheel": photo.crop((330, 150, 690, 460)),
    }
  with Image.open(coffee) as photo:
    index["coffee_small"] = _scaled(photo, 0.6)
    index["coffee_dark"] = ImageEnhance.Brightness(photo).enhance(0.6)
    index["coffee_turned"] = photo.rotate(30).crop((130, 90, 470, 310))
  for name in _UNRELATED:
    index[name] = Image.fromarray(getattr(data, name)()).convert("RGB")
  for name, photo in index.items():
    _save(images / f"{name}.jpg", photo)
  content = {
    "imlist": [right.stem, *index],
    "qimlist": [left.stem, coffee.stem],
    "gnd": [
      {"easy": [0, 1], "hard": [2], "junk": [], "bbx": _MOTORCYCLE_BOX},
      {"easy": [3, 4], "hard": [5], "junk": [], "bbx": _COFFEE_BOX},
    ],
  }
  truth = folder / "gnd_sample.pkl"
  files.write_bytes(truth, pickle.dumps(content))
  return SampleDataset(images, truth)


def write_landmarks(
  folder: str | os.PathLike, photos: int = 10
) -> SampleLandmarks:
  """Write a set of four landmarks with `photos` of each, to try training.

  They are slightly rotated crops of four pictures.
  """
  from skimage import data

  folder = pathlib.Path(folder)
  train, random = folder / "train", np.random.default_rng(0)
  rows, groups = ["id,url,landmark_id"], ["landmark_id,images"]
  for landmark, subject in enumerate(_LANDMARKS, start=_FIRST_LANDMARK):
    whole = Image.fromarray(getattr(data, subject)())
    whole.thumbnail((_LANDMARK_SIDE, _LANDMARK_SIDE))
    ids = [_landmark_id(subject, number) for number in range(photos)]
    for image_id in ids:
      _save(_landmark_path(train, image_id), _random_view(whole, random))
      rows.append(f"{image_id},https://scikit-image.org/{subject},{landmark}")
    groups.append(f"{landmark},{' '.join(ids)}")
  pair = [
    str(_landmark_path(train, _landmark_id("coffee", number)))
    for number in range(2)
  ]
  for path, lines in (
    (train / "train.csv", rows),
    (train / "train_clean.csv", groups),
    (folder / "pair.txt", pair),
  ):
    files.write_bytes(path, ("\n".join(lines) + "\n").encode())
  return SampleLandmarks(train, folder / "pair.txt")


def write_detector(folder: str | os.PathLike) -> None:
  """Write a SavedModel that detects the same `BOXES` in every image.

  Regions of a fixed grid are the baseline for detectors (R-MAC, Tolias et al.,
  ICLR 2016). An existing folder is kept, since existing boxes may depend on it.
  """
  if os.path.isdir(folder):
    return
  import tensorflow as tf

  def detect(input_images):
    batch = tf.shape(input_images)[0]
    return {
      "detection_boxes": tf.tile([BOXES], [batch, 1, 1]),
      "detection_scores": tf.tile([SCORES], [batch, 1]),
      "detection_classes": tf.ones([batch, len(SCORES)]),
    }

  spec = tf.TensorSpec([None, None, None, 3], tf.uint8, "input_images")
  module = tf.Module()
  module.detect = tf.function(detect, input_signature=[spec])
  signatures = {"serving_default": module.detect}
  tf.saved_model.save(module, os.fspath(folder), signatures=signatures)


def _save(path, photo):
  with files.atomic_path(path) as temporary:
    photo.save(temporary, quality=92)
  return path


def _scaled(photo, factor):
  return photo.resize([round(side * factor) for side in photo.size])


def _landmark_id(subject, number):
  return hashlib.sha256(f"{subject} {number}".encode()).hexdigest()[:16]


def _landmark_path(train, image_id):
  return train.joinpath(*image_id[:3], f"{image_id}.jpg")


def _random_view(photo, random):
  angle = random.uniform(-_VIEW_DEGREES, _VIEW_DEGREES)
  turned = photo.rotate(angle, Image.Resampling.BILINEAR)
  share = random.uniform(*_VIEW_SHARES)
  width, height = (round(share * side) for side in photo.size)
  left = random.integers(0, photo.width - width + 1)
  top = random.integers(0, photo.height - height + 1)
  return turned.crop((left, top, left + width, top + height))
