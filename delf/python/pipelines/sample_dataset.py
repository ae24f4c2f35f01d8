"""A data set of a few photos with ground truth, to try retrieval with."""

import io
import pathlib
import pickle
import typing

from PIL import Image, ImageEnhance

from delf.python import files
from delf.python.pipelines import samples

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
  left, right, coffee = samples.write_sample_photos(images)
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
