"""A small data set of tuples, and a network of two layers, for tests."""

import json
import pickle

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from delf.learning import pairs_settings
from delf.python.datasets.sfm120k import sfm120k
from delf.python.normalization_layers import normalization
from delf.records import tuples


class TinyNet(keras.Model):
  """Describes an image by a convolution and a dense layer: 6 numbers."""

  def __init__(self, architecture, pooling, whitening, pretrained, data_root):
    super().__init__(name="tiny")
    self.convolution = keras.layers.Conv2D(5, 8, 8, activation="relu")
    self.convolution.build((None, None, None, 3))
    self.dense = keras.layers.Dense(6)
    self.dense.build((None, 5))
    self.meta = {
      "architecture": architecture,
      "pooling": pooling,
      "whitening": whitening,
      "outputdim": 6,
    }
    self.built = True
    self._describe = tf.function(
      self.call,
      input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
      autograph=False,
    )

  def call(self, images, training=False):
    features = self.convolution(images / 64.0)
    vectors = self.dense(keras.ops.mean(features, axis=(1, 2)))
    return normalization.l2_normalize(vectors, -1)

  def describe(self, images):
    return self._describe(tf.convert_to_tensor(images, tf.float32))


def write(root, clusters=8, photos=3, side=32):
  """Writes photos of so many things, with pairs, and a set to search."""
  groups = []
  for cluster in range(clusters):
    random, paths = np.random.default_rng(cluster), []
    thing = random.integers(0, 256, [4, 4, 3], np.uint8)
    for number in range(photos):
      path = root / "photos" / f"{cluster}" / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      noise = random.integers(-25, 26, [4, 4, 3])
      pixels = np.clip(thing + noise, 0, 255).astype(np.uint8)
      height = side - 4 * (number % 2)
      Image.fromarray(pixels).resize((side, height)).save(path)
      paths.append(str(path))
    groups.append((str(cluster), paths))
  tuples.write_tuples(groups, sfm120k.NAME, root, validation_share=0.5)
  _write_searched(root, groups)


def _write_searched(root, groups):
  """Writes a set in the form of Revisited Oxford: one query of each thing."""
  folder = root / "oxford5k_images"
  folder.mkdir()
  names = []
  for cluster, paths in groups:
    for number, path in enumerate(paths):
      names.append(f"{cluster}_{number}")
      with Image.open(path) as photo:
        photo.save(folder / f"{names[-1]}.jpg", quality=95)
  queries = [name for name in names if name.endswith("_0")]
  index = [name for name in names if not name.endswith("_0")]
  truth = [
    {
      "easy": [index.index(query.replace("_0", "_1"))],
      "hard": [index.index(query.replace("_0", "_2"))],
      "junk": [],
      "bbx": [0, 0, 30, 28],
    }
    for query in queries
  ]
  content = {"imlist": index, "qimlist": queries, "gnd": truth}
  (root / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content))


def options(root, **changes):
  """Returns settings.Settings of a run of seconds; changes by field."""
  parts = {
    "data": {
      "data_root": str(root),
      "image_size": 32,
      "negatives": 3,
      "queries": 12,
      "pool": 12,
      "tests": ("roxford5k",),
      "workers": 2,
    },
    "network": {"architecture": "VGG16", "pretrained": False},
    "learning": {"rate": 3e-3, "epochs": 3, "batch": 2},
  }
  rest = {"directory": str(root / "runs"), "test_every": 1, "save_every": 1}
  for name, value in changes.items():
    known = [n for n, kind in _KINDS.items() if name in _fields(kind)]
    (parts[known[0]] if known else rest)[name] = value
  made = {name: _KINDS[name](**part) for name, part in parts.items()}
  return pairs_settings.Settings(**made, **rest)


_KINDS = {
  "data": pairs_settings.Data,
  "network": pairs_settings.Network,
  "learning": pairs_settings.Learning,
}


def _fields(kind):
  return kind.__dataclass_fields__


if __name__ == "__main__":  # So that a test can kill it.
  import pathlib
  import sys

  from delf.learning import pairs

  root, changes = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
  report = pairs.fit(options(root, **changes), TinyNet)
  print(json.dumps(report.place.history))
