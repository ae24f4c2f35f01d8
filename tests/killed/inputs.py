"""What commands that are killed work on."""

import pickle
import random
import subprocess
import sys

import numpy as np
from PIL import Image

from delf.embedded import samples
from delf.python import datum_io, feature_io

_IMAGES = 24


def _make_features(folder, number, seed):
  """Writes features of images that are a plane each, in three groups."""
  folder.mkdir()
  for image in range(number):
    plane = np.random.default_rng(image % 3)
    noise = np.random.default_rng([seed, image])
    places, descriptors = plane.random([120, 2]), plane.random([120, 16]) - 0.5
    descriptors += 0.1 * noise.standard_normal(descriptors.shape)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    ones = np.ones([120])
    path = folder / f"{image:03}"
    feature_io.WriteToFile(
      f"{path}.delf", 300 * places, ones, descriptors, ones
    )
    vector = descriptors.mean(axis=0)
    datum_io.WriteToFile(vector / np.linalg.norm(vector), f"{path}.delg_global")


def _make_photos(folder, seed):
  """Writes parts of the sample photos."""
  originals = samples.sample_photos(folder.parent / "originals")
  chance = random.Random(seed)
  folder.mkdir()
  for image in range(_IMAGES):
    with Image.open(originals[image % 3]) as photo:
      x = chance.randrange(photo.width - 320)
      y = chance.randrange(photo.height - 320)
      part = photo.crop((x, y, x + 320, y + 320))
      part.save(folder / f"{image:03}.png")


def _make_plain_photos(folder):
  """Writes small photos of noise."""
  noise = np.random.default_rng(0)
  folder.mkdir()
  for number in range(12):
    pixels = noise.integers(0, 256, [60, 80, 3], dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number:03}.png")


def _make_many(folder):
  """Writes features enough for a clustering of some seconds."""
  rng = np.random.default_rng(4)
  folder.mkdir()
  centers = rng.standard_normal([500, 128])
  ones = np.ones([1000])
  for number in range(50):
    found = centers[rng.integers(0, 500, 1000)]
    found = found + rng.standard_normal(found.shape)
    path = str(folder / f"{number:03}.delf")
    feature_io.WriteToFile(path, np.zeros([1000, 2]), ones, found, ones)


def _make_regions(inputs):
  """Writes a data set of eight photos, and a detector."""
  images = inputs / "dataset"
  images.mkdir()
  names = [path.stem for path in sorted((inputs / "photos").iterdir())[:8]]
  for name in names:
    with Image.open(inputs / "photos" / f"{name}.png") as photo:
      photo.save(images / f"{name}.jpg")
  truth = [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 99, 99]}]
  content = {"imlist": names, "qimlist": names[:1], "gnd": truth}
  (inputs / "gnd.pkl").write_bytes(pickle.dumps(content))
  samples.write_detector(inputs / "detector")


def _delf(*arguments):
  command = [sys.executable, "-m", "delf", *map(str, arguments)]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make_quick(inputs):
  """Makes features of images and queries, and an index."""
  _make_features(inputs / "features", 24, seed=1)
  _make_features(inputs / "queries", 6, seed=2)
  _make_plain_photos(inputs / "plain_photos")
  _delf("index", inputs / "features", "--out", inputs / "features.index")


def make_whole(inputs):
  """Makes photos, features to cluster, an index and a codebook."""
  _make_photos(inputs / "photos", seed=1)
  _make_photos(inputs / "asked", seed=2)
  _make_regions(inputs)
  _make_many(inputs / "many")
  _delf("index", inputs / "photos", "--out", inputs / "photos.index")
  features = inputs / "photos.index" / "features"
  codebook = inputs / "words" / "codebook"
  _delf("fit", "codebook", features, "--out", codebook, "--words", "64")
