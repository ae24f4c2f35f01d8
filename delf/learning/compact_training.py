"""Trains the compact model for a given time, from where it left off."""

import dataclasses
import json
import math
import os
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from delf.base import arrays, errors, files
from delf.inference import zoo
from delf.learning import compact_heads
from delf.networks import exporting, heads
from delf.python.normalization_layers import normalization
from delf.python.training.model import delg_model

# What `Trainer.learn` returns, by place.
TERMS = ("local", "attention", "keypoint", "found", "score")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long and how fast to learn.

  Attributes:
    minutes: Time budget, over all runs that continue each other.
    rate: Highest learning rate; it falls to a hundredth along a cosine.
    warm_up: Steps until it is reached.
    save_minutes: Between checkpoints.
    attention_weight: Of the attention's loss.
    keypoint_weight: Of the loss of the keypoints in cells.
  """

  minutes: float = 75.0
  rate: float = 1.5e-3
  warm_up: int = 200
  save_minutes: float = 3.0
  attention_weight: float = 0.5
  keypoint_weight: float = 0.3


class Trainer:
  """The model, its optimizer and what it remembers.

  Attributes:
    backbone: CompactBackbone.
    attention: local_heads.AttentionModel.
    step: Steps made.
    seconds: Time spent.
  """

  def __init__(self, backbone, attention, schedule, side=192):
    """Builds all variables.

    Args:
      backbone: CompactBackbone.
      attention: local_heads.AttentionModel.
      schedule: Schedule.
      side: Pixels of a view's side.
    """
    self.backbone, self.attention = backbone, attention
    self.schedule = schedule
    self.step, self.seconds = 0, 0.0
    backbone(np.zeros([1, side, side, 3], np.float32), training=False)
    cells = [1, 4, 4, backbone.local_channels]
    attention(np.zeros(cells, np.float32), training=False)
    # What only the global descriptor needs is set afterwards (global_head).
    others = (backbone.pool, backbone.embedding_layer)
    others = {id(v) for layer in others for v in layer.variables}
    self._trainable = [
      v
      for v in backbone.trainable_variables + attention.trainable_variables
      if id(v) not in others
    ]
    self._optimizer = keras.optimizers.AdamW(
      schedule.rate, weight_decay=1e-4, global_clipnorm=5.0
    )
    self._optimizer.build(self._trainable)
    self._graph = tf.function(self._learn, reduce_retracing=True)
    self._measure = tf.function(self._measured, reduce_retracing=True)

  def resume(self, path):
    """Goes on from a checkpoint, if there is one."""
    if path.exists():
      self.restore(path)
      logging.info("continues at step %d, %.0f s", self.step, self.seconds)

  def fit(self, batches, path):
    """Learns until the time is up.

    Args:
      batches: Iterator of data.Batch.
      path: pathlib.Path of the checkpoint that is written on the way.
    """
    budget = 60 * self.schedule.minutes
    saved, recent = self.seconds, []
    last = time.monotonic()
    while self.seconds < budget:
      recent.append(self.learn(next(batches), self.seconds / budget))
      now = time.monotonic()
      self.seconds, last = self.seconds + now - last, now
      if self.step % 50 == 0:
        self._report(np.mean(recent, axis=0))
        recent = []
      if self.seconds - saved > 60 * self.schedule.save_minutes:
        saved = self.seconds
        self.save(path)
    self.save(path)

  def learn(self, batch, progress):
    """Makes one step.

    Args:
      batch: data.Batch.
      progress: Share of the time that is over, in [0, 1].

    Returns:
      [5] float32, TERMS: loss of descriptors, of attention and of keypoints,
      share of points that are mutual nearest neighbours, and mean attention.
    """
    rate = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    rate *= min(1.0, (self.step + 1) / self.schedule.warm_up)
    self._optimizer.learning_rate.assign(self.schedule.rate * rate)
    self.step += 1
    return self._graph(*_parts(batch)).numpy()

  def evaluate(self, batch):
    """Returns what `learn` returns, as the model is: nothing is learnt."""
    return self._measure(*_parts(batch)).numpy()

  def _measured(self, *parts):
    return tf.stack(self._terms(*parts, training=False))

  def _learn(self, images, points, weights, corners):
    with tf.GradientTape() as tape:
      terms = self._terms(images, points, weights, corners)
      total = terms[0] + self.schedule.attention_weight * terms[1]
      total += self.schedule.keypoint_weight * terms[2]
    gradients = tape.gradient(total, self._trainable)
    self._optimizer.apply_gradients(
      zip(gradients, self._trainable, strict=True)
    )
    return tf.stack(terms)

  def _terms(self, images, points, weights, corners, training=True):
    """Returns the five numbers of `learn`."""
    pairs = weights.shape[0]
    pixels = (tf.cast(images, tf.float32) - 128.0) / 128.0
    cells, logits = self.backbone.cells_call(pixels, training=training)
    at = points[..., ::-1] / heads.STRIDE
    raw = tf.cast(heads.interpolate(cells, at), tf.float32)
    chosen = normalization.l2_normalize(raw, axis=-1, epsilon=1e-6)
    loss, probability, nearest = compact_heads.descriptor_loss(
      chosen[:pairs], chosen[pairs:], points[:pairs], points[pairs:], weights
    )
    _, scores, _ = self.attention(raw[:, :, None], training=training)
    scores = tf.cast(scores[:, :, 0, 0], tf.float32)
    target = tf.stop_gradient(probability)
    sure = 0.2 + target
    descriptor = compact_heads.mean(loss, weights * sure)
    attention = compact_heads.attention_loss(
      scores, tf.concat([target, target], 0), tf.concat([weights, weights], 0)
    )
    mean_score = compact_heads.mean(scores[:pairs], weights)
    found = compact_heads.mean(nearest, weights)
    keypoint = compact_heads.keypoint_loss(logits, *corners)
    return [descriptor, attention, keypoint, found, mean_score]

  def _report(self, values):
    text = " ".join(f"{n} {v:.3f}" for n, v in zip(TERMS, values, strict=True))
    logging.info("step %d, %.0f s: %s", self.step, self.seconds, text)

  def _variables(self):
    models = self.backbone.variables + self.attention.variables
    return {
      f"{i:03d}/{v.path}": v
      for i, v in enumerate(models + self._optimizer.variables)
    }

  def save(self, path):
    """Writes all variables, of the models first, to an `.npz` file."""
    arrays = {name: v.numpy() for name, v in self._variables().items()}
    arrays["step"] = np.int64(self.step)
    arrays["seconds"] = np.float64(self.seconds)
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **arrays)

  def restore(self, path):
    """Reads what `save` wrote; a file of another model is an InputError."""
    arrays = read(path)
    assign(list(self._variables().values()), arrays, path)
    self.step = int(arrays["step"])
    self.seconds = float(arrays["seconds"])


def _parts(batch):
  """Returns what `Trainer._terms` takes of a data.Batch."""
  corners = (batch.offsets, batch.sureness)
  return batch.images, batch.points, batch.weights, corners


def read(path):
  """Returns the arrays of a checkpoint by name; a bad one is an InputError."""
  return arrays.read_npz(path, "a checkpoint of training", ["step", "seconds"])


def assign(variables, arrays, path):
  """Gives variables the values of a checkpoint.

  Args:
    variables: The first variables of those that were saved, in that order.
    arrays: dict of the checkpoint; keys are `<number>/<path of the variable>`.
    path: Of the checkpoint, for errors.

  Raises:
    InputError: If a variable is missing, or of another shape or name.
  """
  names = {name.split("/")[0]: name for name in arrays}
  for i, variable in enumerate(variables):
    name = names.get(f"{i:03d}", "nothing")
    same = name.rsplit("/", 1)[-1] == variable.path.rsplit("/", 1)[-1]
    if not same or arrays[name].shape != tuple(variable.shape):
      raise errors.InputError(
        f"{variable.path} {tuple(variable.shape)} as variable {i}", name, path
      )
    variable.assign(arrays[name])


NAME = "weights.npz"

_KIND = "the weights of a compact model"
_ARCHITECTURE = "architecture"
_COMPACT = "compact"


def save(model, folder):
  """Writes the weights of a model, kernels in half precision.

  Training does not notice, and the file, which comes with the package, is half
  as large. Statistics may be too small or too large for it.

  Args:
    model: delg_model.Delg of the compact backbone.
    folder: Folder of the model; it gets the file `weights.npz`.
  """
  arrays = {
    name: _stored(keras.ops.convert_to_numpy(variable))
    for name, variable in _variables(model).items()
  }
  with files.atomic_path(pathlib.Path(folder, NAME)) as temporary:
    np.savez_compressed(temporary, **{_ARCHITECTURE: _COMPACT}, **arrays)


def load(model, path):
  """Gives a model the weights that `save` wrote.

  Args:
    model: delg_model.Delg of the compact backbone. Either all of its weights
      are set, or none.
    path: Folder of a model, or the file.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or of another architecture.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = path / NAME
  if not path.exists():
    raise FileNotFoundError(f"{path}: expected {_KIND}, found none")
  weights = arrays.read_npz(path, _KIND, [_ARCHITECTURE])
  found = weights.pop(_ARCHITECTURE)
  if str(found) != _COMPACT:
    raise errors.InputError(_KIND, f"those of {str(found)[:40]!r}", path)
  variables = _variables(model)
  for name in sorted(set(weights) | set(variables)):
    _compare(variables.get(name), weights.get(name), name, path)
  for name, variable in variables.items():
    variable.assign(weights[name])


def _stored(array):
  most = np.finfo(np.float16).max
  fits = array.ndim > 1 and np.abs(array).max() < most
  return array.astype(np.float16) if fits else array


def _compare(variable, array, name, path):
  """Raises InputError if an array is not that of a variable."""
  wanted = None if variable is None else tuple(variable.shape)
  found = None if array is None else tuple(array.shape)
  if wanted != found:
    raise errors.InputError(
      f"weights of this architecture, {name} {wanted or 'not among them'}",
      f"another one, {found or 'without it'}",
      path,
    )
  if not np.issubdtype(array.dtype, np.floating):
    raise errors.InputError(f"numbers as {name}", str(array.dtype), path)
  arrays.check_finite(array, f"numbers as {name}", path)


def _variables(model):
  """Returns the variables by a name that does not depend on the model's."""
  named = {}
  for part, layer in (
    ("backbone", model.backbone),
    ("attention", model.attention),
  ):
    for variable in layer.variables:
      path = variable.path.removeprefix(f"{layer.name}/")
      named[f"{part}/{path}"] = variable
  return named


# Overlap of two boxes above which the weaker feature goes.
IOU = 0.4

# Of the configuration, chosen on held-out photos (docs/EMBEDDED_MODEL.md): few
# scales, with the finest enlarged, where locations are the most exact.
SCALES = (0.3, 0.5, 0.85, 1.6)
GLOBAL_SCALES = (0.5, 0.85)
THRESHOLD = 0.4

_CONFIGURATION = """\
# The model that comes with the package: local features and a global descriptor.

model_path: {path}
{scales}
max_image_size: 1024
use_local_features: true
use_global_features: true
delf_local_config {{
  use_pca: false
  max_feature_num: 2000
  score_threshold: {threshold}
}}
delf_global_config {{
  use_pca: false
  {indices}
}}
is_tf2_exported: true
"""


def load_export_compact(path):
  """Makes a model and gives it the weights of a training checkpoint.

  Args:
    path: `checkpoint.npz` of `trainer.Trainer`, or a file of its first part.

  Returns:
    delg_model.Delg.

  Raises:
    InputError: If it is no such file, or if a variable is missing or of
      another shape or name.
  """
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  variables = model.backbone.variables + model.attention.variables
  assign(variables, read(path), path)
  return model


def export(model, folder, iou=IOU):
  """Exports a model, with its configuration and training weights beside it.

  Args:
    model: delg_model.Delg, as of `load`.
    folder: Folder of the SavedModel to be; an export in it is replaced, its
      Markdown files stay.
    iou: Overlap of two boxes above which the weaker feature goes.
  """
  folder = pathlib.Path(folder)
  settings = configuration(model_path(folder)).encode()
  kept = {path.name: path.read_bytes() for path in folder.glob("*.md")}
  with exporting.destination(folder, overwrite=True) as new:
    exporting.export_local_and_global(model, new, iou=iou)
    save(model, new)
    for name, data in (kept | {"config.pbtxt": settings}).items():
      files.write_bytes(new / name, data)


def model_path(folder):
  """Returns what a configuration calls the model in a folder."""
  embedded = zoo.artefact(zoo.EMBEDDED)
  if folder.resolve() == zoo.folder(embedded).resolve():
    return embedded.name
  # Absolute: a relative one that is not found may be taken for a known name.
  return os.fspath(folder.resolve())


def configuration(model_path):
  """Returns the text of the DelfConfig of a model of this name or path."""
  indices = [i for i, scale in enumerate(SCALES) if scale in GLOBAL_SCALES]
  return _CONFIGURATION.format(
    path=json.dumps(model_path, ensure_ascii=False),
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in SCALES),
    threshold=THRESHOLD,
    indices="\n  ".join(f"image_scales_ind: {i}" for i in indices),
  )
