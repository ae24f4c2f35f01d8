"""Speed of a training step against the backbone alone, and memory of ArcFace.

The lower bound is the forward and backward pass of the backbone with the same
loss of its global descriptor, in one compiled function on the same batch. A
step adds attention, autoencoder, classifiers, clipping, the update, and reading
the numbers to log. Photos are not read. ArcFace: peak resident memory of three
steps of DELG's classifier alone, sampled every few milliseconds in a process of
its own, minus the memory before; weights and momenta are two arrays [2048,
classes].

  python -m benchmarks.training_step [--size 225] [--batch 8] [--quick]
  python -m benchmarks.training_step --arcface 203094 [--batch 32]
"""

import argparse
import statistics
import threading
import time

import numpy as np
import tensorflow as tf

from delf.learning import delg_settings, delg_steps
from delf.python.training.model import delg_model

_EMBEDDING = 2048
_GIB = 2**30


def main():
  """Measures, and prints a table."""
  options = _options()
  if options.arcface:
    _measure_arcface(options.arcface, options.batch)
    return
  print(
    f"one device, batch {options.batch} of {options.size} px, "
    f"{options.classes} classes; median of {options.repeats}"
  )
  print(f"{'network':24} {'floor':>9} {'step':>9}  step / floor")
  for name, network in _networks(options.quick).items():
    floor, step = _measure(network, options)
    print(f"{name:24} {floor:7.3f} s {step:7.3f} s  {step / floor:12.2f}")


def _options():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", type=int, help="side of a photo in pixels")
  parser.add_argument("--batch", type=int)
  parser.add_argument("--classes", type=int, default=1000)
  parser.add_argument("--repeats", type=int)
  parser.add_argument("--quick", action="store_true", help="measure less")
  parser.add_argument(
    "--arcface", type=int, metavar="CLASSES", help="memory of the classifier"
  )
  options = parser.parse_args()
  if options.quick:
    print("Quick: small photos, few repeats.")
  options.size = options.size or (97 if options.quick else 225)
  options.repeats = options.repeats or (3 if options.quick else 7)
  if options.batch is None:
    options.batch = 32 if options.arcface else 4 if options.quick else 8
  return options


def _networks(quick):
  """Return settings.Network by name."""
  found = {
    "compact, DELG": delg_settings.Network(backbone="compact", delg=True)
  }
  found["ResNet-50, DELG"] = delg_settings.Network(delg=True)
  if not quick:
    found["ResNet-50, DELF"] = delg_settings.Network()
  return found


def _measure(network, options):
  """Return median seconds of the floor and of a step, taking turns."""
  given = delg_settings.Settings(
    "nowhere",
    delg_settings.Data(
      num_classes=options.classes,
      batch_size=options.batch,
      image_size=options.size,
    ),
    network,
  )
  stepper = delg_steps.Stepper(given, tf.distribute.get_strategy())
  rng = np.random.default_rng(0)
  shape = (options.batch, options.size, options.size, 3)
  images = tf.constant(rng.uniform(-1, 1, shape).astype(np.float32))
  labels = tf.constant(rng.integers(0, options.classes, options.batch))
  floor = _floor(stepper.model.backbone)
  ways = (
    lambda: floor(images).numpy(),
    lambda: stepper.train(images, labels, False),
  )
  times = [[], []]
  for repeat in range(options.repeats + 1):
    for way, found in zip(ways, times, strict=True):
      start = time.perf_counter()
      way()
      if repeat:  # The first one traces.
        found.append(time.perf_counter() - start)
  return [statistics.median(each) for each in times]


def _floor(backbone):
  variables = [v.value for v in backbone.trainable_variables]

  @tf.function(autograph=False)
  def floor(images):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(backbone.build_call(images, training=True))
    gradients = tape.gradient(
      loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])

  return floor


def _measure_arcface(classes, batch):
  """Print the peak memory of steps of the classifier."""
  before = _resident()
  weights = tf.Variable(tf.zeros([_EMBEDDING, classes]))
  weights.assign_add(tf.fill(weights.shape, 0.01))
  optimizer = delg_steps.Momentum([weights], 0.9)
  labels = tf.constant(np.arange(batch) * (classes // batch))
  rng = np.random.default_rng(0)
  embedded = tf.constant(rng.normal(size=(batch, _EMBEDDING)), tf.float32)

  @tf.function(autograph=False)
  def step():
    with tf.GradientTape() as tape:
      logits = delg_model.cosine_classifier_logits(
        embedded, labels, classes, weights, 45.25, 0.1
      )
      loss = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
      )
    optimizer.apply(tape.gradient(loss, [weights]), 0.01, 10.0)
    return loss

  with _Peak() as peak:
    for _ in range(3):
      step().numpy()
  array = 4 * _EMBEDDING * classes / _GIB
  used = (peak.bytes - before) / _GIB
  print(f"ArcFace, {classes} classes, batch {batch}, embedding {_EMBEDDING}:")
  print(f"  weights                      {array:6.2f} GiB")
  print(f"  peak of a step               {used:6.2f} GiB")
  print(f"  peak / weights               {used / array:6.2f}")
  one_hot = 4 * batch * classes / _GIB
  print(f"  one-hot float32, not made    {one_hot:6.3f} GiB")


def _resident():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * 4096


class _Peak:
  """Samples the resident memory of the process."""

  def __enter__(self):
    self.bytes, self._ends = 0, threading.Event()
    self._thread = threading.Thread(target=self._watch)
    self._thread.start()
    return self

  def _watch(self):
    while not self._ends.wait(0.003):
      self.bytes = max(self.bytes, _resident())

  def __exit__(self, *_):
    self._ends.set()
    self._thread.join()


if __name__ == "__main__":
  main()
