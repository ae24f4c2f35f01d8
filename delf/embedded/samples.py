"""Sample photos that come with scikit-image."""

import hashlib
import io
import os
import pathlib
import pickle
import typing

import numpy as np
from PIL import Image, ImageEnhance

from delf.base import files


class SamplePhotos(typing.NamedTuple):
  """Paths of two photos of one scene, and of one of something else.

  Attributes:
    left: A motorcycle in a workshop, 741 x 500 pixels.
    right: The same from 19 cm further right: the other half of a stereo pair of
      the Middlebury benchmark of 2014.
    other: A cup of coffee, 600 x 400 pixels, by Rachel Michetti (CC0).
  """

  left: pathlib.Path
  right: pathlib.Path
  other: pathlib.Path


def write_sample_photos(folder):
  """Writes the sample photos as JPEG files.

  They lie in the wheel of scikit-image itself (0.24 and later, measured), so
  that nothing is downloaded.

  Args:
    folder: Path of a folder, made if need be.

  Returns:
    SamplePhotos, a tuple of three pathlib.Path.
  """
  # scikit-image takes a third of a second to load.
  from skimage import data

  left, right, _ = data.stereo_motorcycle()
  photos = {
    "motorcycle_left": left,
    "motorcycle_right": right,
    "coffee": data.coffee(),
  }
  folder = pathlib.Path(folder)
  paths = [folder / f"{name}.jpg" for name in photos]
  for path, pixels in zip(paths, photos.values(), strict=True):
    with files.atomic_path(path) as temporary:
      Image.fromarray(pixels).save(temporary, quality=92)
  return SamplePhotos(*paths)


# The motorcycle's engine and front wheel, x_min, y_min, x_max, y_max in pixels.
_BOX = [230.4, 120.6, 690.0, 460.2]
_WHOLE = [0.0, 0.0, 600.0, 400.0]  # The coffee's photo.

# Photos that show neither query's subject; all in the wheel of scikit-image.
_OTHERS = ("astronaut", "chelsea", "rocket", "brick", "hubble_deep_field")


class SampleDataset(typing.NamedTuple):
  """Paths of what was written.

  Attributes:
    images: Folder of `<name>.jpg`: two queries and eleven others.
    ground_truth: `gnd_sample.pkl`, in the form of Revisited Oxford's: each
      query has two easy and one hard image, and the motorcycle a box.
  """

  images: pathlib.Path
  ground_truth: pathlib.Path


def write(folder):
  """Writes the data set; nothing is downloaded.

  Args:
    folder: Path of a folder, made if need be.

  Returns:
    SampleDataset.
  """
  from skimage import data

  folder = pathlib.Path(folder)
  images = folder / "sample_images"
  left, right, coffee = write_sample_photos(images)
  index = {right.stem: right}
  with Image.open(right) as photo:
    index |= _save(images, "motorcycle_small", _smaller(photo, 0.5))
    index |= _save(images, "motorcycle_wheel", photo.crop((330, 150, 690, 460)))
  with Image.open(coffee) as photo:
    index |= _save(images, "coffee_small", _smaller(photo, 0.6))
    dark = ImageEnhance.Brightness(photo).enhance(0.6)
    index |= _save(images, "coffee_dark", dark)
    turned = photo.rotate(30).crop((130, 90, 470, 310))
    index |= _save(images, "coffee_turned", turned)
  for name in _OTHERS:
    photo = Image.fromarray(getattr(data, name)()).convert("RGB")
    index |= _save(images, name, photo)
  names = list(index)
  content = {
    "imlist": names,
    "qimlist": [left.stem, coffee.stem],
    "gnd": [
      {"easy": [0, 1], "hard": [2], "junk": [], "bbx": _BOX},
      {"easy": [3, 4], "hard": [5], "junk": [], "bbx": _WHOLE},
    ],
  }
  truth = folder / "gnd_sample.pkl"
  files.write_bytes(truth, pickle.dumps(content))
  return SampleDataset(images, truth)


def _smaller(photo, factor):
  return photo.resize([round(side * factor) for side in photo.size])


def _save(folder, name, photo):
  """Writes a photo; returns {name: path}."""
  path, buffer = folder / f"{name}.jpg", io.BytesIO()
  photo.save(buffer, "JPEG", quality=92)
  files.write_bytes(path, buffer.getvalue())
  return {name: path}


# The middle of the image and its four corners, each 0.6 of a side, as (ymin,
# xmin, ymax, xmax) in [0, 1]; the middle is surest.
BOXES = (
  (0.2, 0.2, 0.8, 0.8),
  (0.0, 0.0, 0.6, 0.6),
  (0.0, 0.4, 0.6, 1.0),
  (0.4, 0.0, 1.0, 0.6),
  (0.4, 0.4, 1.0, 1.0),
)
SCORES = (0.9, 0.5, 0.5, 0.5, 0.5)


def write_sample_detector(folder):
  """Writes a SavedModel that a detector is loaded from.

  With it regional search can be tried, and a detector compared: regions on a
  fixed grid are what it has to be better than (R-MAC, Tolias et al., ICLR
  2016).

  Args:
    folder: Path of the SavedModel to be; one that is there stays, as boxes may
      be of it.
  """
  if os.path.isdir(folder):
    return
  import tensorflow as tf

  module = tf.Module()

  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, None, 3], tf.uint8, "input_images")
    ]
  )
  def find(input_images):
    found = {
      "detection_boxes": tf.constant(BOXES),
      "detection_scores": tf.constant(SCORES),
      "detection_classes": tf.ones([len(SCORES)]),
    }
    number = tf.shape(input_images)[0]
    return {
      name: tf.repeat(value[tf.newaxis], number, axis=0)
      for name, value in found.items()
    }

  module.find = find
  signatures = {"serving_default": find}
  tf.saved_model.save(module, os.fspath(folder), signatures=signatures)


# In the wheel of scikit-image; each is one landmark.
_THINGS = ("astronaut", "chelsea", "coffee", "rocket")
_FIRST_LANDMARK = 100  # Of others there are no photos, as in the clean part.
_LONGER = 240  # Pixels of the longer side before a photo is cut out.
_SHARES = (0.6, 0.9)  # Of the sides, that is cut out.
_TURN = 10.0  # Degrees to either side.


class SampleLandmarks(typing.NamedTuple):
  """Paths of what was written.

  Attributes:
    train: Folder with `a/b/c/<id>.jpg`, `train.csv` and `train_clean.csv`.
    list_path: Text file with the paths of two photos of one thing, a line each.
  """

  train: pathlib.Path
  list_path: pathlib.Path


def write_sample_landmarks(folder, photos=10):
  """Writes the photos; nothing is downloaded.

  They are views of four photos, cut out and turned a little: enough to see
  whether training runs, not to learn anything of use.

  Args:
    folder: Path of a folder, made if need be.
    photos: Number of photos of each thing.

  Returns:
    SampleLandmarks.
  """
  from skimage import data

  folder = pathlib.Path(folder)
  train, random = folder / "train", np.random.default_rng(0)
  rows, groups = ["id,url,landmark_id"], ["landmark_id,images"]
  for landmark, thing in enumerate(_THINGS, start=_FIRST_LANDMARK):
    whole = Image.fromarray(getattr(data, thing)())
    whole.thumbnail((_LONGER, _LONGER))
    names = [_id(thing, number) for number in range(photos)]
    for name in names:
      buffer = io.BytesIO()
      _view(whole, random).save(buffer, "JPEG", quality=92)
      files.write_bytes(_path(train, name), buffer.getvalue())
      rows.append(f"{name},https://scikit-image.org/{thing},{landmark}")
    groups.append(f"{landmark},{' '.join(names)}")
  for name, lines in (("train.csv", rows), ("train_clean.csv", groups)):
    files.write_bytes(train / name, ("\n".join(lines) + "\n").encode())
  pair = [str(_path(train, _id("coffee", number))) for number in range(2)]
  files.write_bytes(folder / "pair.txt", ("\n".join(pair) + "\n").encode())
  return SampleLandmarks(train, folder / "pair.txt")


def _id(thing, number):
  """Returns a name as those of Google Landmarks: 16 hexadecimal digits."""
  return hashlib.sha256(f"{thing} {number}".encode()).hexdigest()[:16]


def _path(train, name):
  return train / name[0] / name[1] / name[2] / f"{name}.jpg"


def _view(photo, random):
  """Returns a part of a photo, turned a little."""
  turned = photo.rotate(random.uniform(-_TURN, _TURN), Image.BILINEAR)
  share = random.uniform(*_SHARES)
  width, height = (round(share * side) for side in photo.size)
  left = random.integers(0, photo.width - width + 1)
  top = random.integers(0, photo.height - height + 1)
  return turned.crop((left, top, left + width, top + height))
