"""Photos of a few things laid out as Google Landmarks, to try training with."""

import hashlib
import io
import pathlib
import typing

import numpy as np
from PIL import Image

from delf.python import files

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


def write(folder, photos=10):
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
