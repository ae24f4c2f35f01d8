"""A small backbone, and batches of noise, for tests of training."""

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from delf.networks import backbones
from delf.python.normalization_layers import normalization


@contextlib.contextmanager
def registered():
  """Makes `Backbone` known by the name "tiny"."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(backbones._BACKBONES, "tiny", (__name__, "Backbone", {}))
    yield


@pytest.fixture(scope="module", autouse=True)
def tiny():
  """Does the same for modules that import it."""
  with registered():
    yield


class Backbone(keras.Model):
  """One convolution with batch normalisation, and a dense layer."""

  receptive_field = 16
  receptive_stride = 16
  receptive_padding = 0
  local_channels = 12

  def __init__(self, name, gem_power=3.0, embedding_layer_dim=8):
    super().__init__(name=name)
    self.global_channels = embedding_layer_dim
    self.convolution = layers.Conv2D(
      self.local_channels, 16, 16, "same", name="convolution"
    )
    self.convolution.build((None, None, None, 3))
    self.norm = normalization.BatchNormalization(name="norm")
    self.norm.build((None, None, None, self.local_channels))
    self.dense = layers.Dense(embedding_layer_dim, name="dense")
    self.dense.build((None, self.local_channels))
    self.built = True

  def build_call(self, inputs, training=True, intermediates_dict=None):
    """Returns the global descriptors [B, D]."""
    block3 = self.norm(self.convolution(inputs), training=training)
    block3 = ops.relu(block3)
    if intermediates_dict is not None:
      intermediates_dict["block3"] = block3
    return self.dense(ops.mean(block3, axis=(1, 2)))


@dataclasses.dataclass(frozen=True)
class NoiseBatches:
  """Has the functions of `data_source.Source`; batch n is always the same."""

  size: int = 65
  batch_size: int = 4
  classes: int = 3
  validation_batches: int = 2

  def training(self, start_batch=0):
    """Returns batches without end."""
    return tf.data.Dataset.counter(start_batch).map(self._make)

  def validation(self):
    """Returns a few batches, the last one smaller."""
    number = self.validation_batches * self.batch_size + 1
    batches = self.training(1000).unbatch().take(number)
    return batches.batch(self.batch_size)

  @tf.autograph.experimental.do_not_convert
  def _make(self, number):
    shape = [self.batch_size, self.size, self.size, 3]
    noise = tf.random.stateless_uniform(shape, [number, 1], -1.0, 1.0)
    labels = tf.random.stateless_uniform(
      shape[:1], [number, 2], 0, self.classes, tf.int64
    )
    # A class is a shade.
    shade = tf.cast(labels, tf.float32)[:, None, None, None]
    return noise + shade / self.classes, labels


def write_records(folder, number=9, classes=3, name="train", size=40):
  """Writes TFRecords of noise in two shards, and `labels.json`.

  Args:
    folder: pathlib.Path.
    number: Number of photos; photo i is of class i modulo `classes`.
    classes: Number of classes.
    name: Beginning of the files' names.
    size: Side of a photo in pixels.

  Returns:
    str, pattern of the files.
  """
  rng = np.random.default_rng(number)
  for shard in range(2):
    path = folder / f"{name}-{shard:05d}-of-00002"
    with tf.io.TFRecordWriter(str(path)) as writer:
      for i in range(shard, number, 2):
        label = i % classes
        noise = rng.integers(0, 128, [size, size, 3]) + 40 * label
        jpeg = tf.io.encode_jpeg(noise.astype(np.uint8)).numpy()
        features = {
          "image/id": _bytes(b"photo%d" % i),
          "image/encoded": _bytes(jpeg),
          "image/class/label": tf.train.Feature(
            int64_list=tf.train.Int64List(value=[label])
          ),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        writer.write(example.SerializeToString())
  names = [f"class {i}" for i in range(classes)]
  counts = [len(range(i, number, classes)) for i in range(classes)]
  content = {"classes": names, "counts": {name: counts}}
  (folder / "labels.json").write_text(json.dumps(content))
  return str(folder / f"{name}*")


def _bytes(value):
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
