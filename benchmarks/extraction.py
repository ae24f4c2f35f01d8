"""Speed of extraction against the straightforward way.

The model is DELG on ResNet-50 with random weights, at the seven scales of the
published configurations, of which three give global descriptors. The
straightforward way is one call per image, of all scales and both heads, through
a function that TensorFlow traces again for each size of image.

  python benchmarks/extraction.py [--size 1024x768] [--images 20] [--quick]
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from delf.protos import delf_config_pb2
from delf.python import feature_extractor
from delf.python.inference import extractor
from delf.python.training import exporting
from delf.python.training.model import delg_model, folding, multi_scale, network

_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
_GLOBAL = (3, 4, 5)
_MOST = 1000


def main():
  """Measures, and prints a table."""
  # The straightforward way is traced again for each size: known, and the point.
  tf.get_logger().setLevel("ERROR")
  options = _options()
  width, height = (int(side) for side in options.size.split("x"))
  scales = _SCALES if not options.quick else _SCALES[:5]
  indices = _GLOBAL if not options.quick else (3, 4)
  model = delg_model.Delg(block3_strides=False, use_dim_reduction=True)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model"
    exporting.export_local_and_global(model, path)
    made = {
      name: extractor.make_extractor(_config(path, scales, indices, *parts))
      for name, parts in {
        "joint": (True, True),
        "local only": (True, False),
        "global only": (False, True),
      }.items()
    }
    image = _image(height, width)
    plain = _straightforward(model, scales)
    ways = {"straightforward": plain}
    ways |= {name: each.extract for name, each in made.items()}
    ways["network of joint"] = _network(model, scales, indices)
    _print_single(_single(image, ways, options.repeats), options.size)
    if options.images:
      _print_folder(made["joint"], model, scales, options)
  if options.openvino:
    _print_openvino(model, image)


def _options():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", default="1024x768", help="width x height")
  parser.add_argument(
    "--images", type=int, default=20, help="in the folder; 0 for none"
  )
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--quick", action="store_true", help="five scales only")
  parser.add_argument(
    "--openvino", action="store_true", help="the network in OpenVINO as well"
  )
  return parser.parse_args()


def _config(path, scales, indices, use_local, use_global):
  config = delf_config_pb2.DelfConfig(
    model_path=str(path),
    image_scales=scales,
    use_local_features=use_local,
    use_global_features=use_global,
  )
  config.delf_local_config.use_pca = False
  config.delf_local_config.max_feature_num = _MOST
  config.delf_local_config.score_threshold = 0.0
  config.delf_global_config.use_pca = False
  config.delf_global_config.image_scales_ind.extend(indices)
  return config


def _image(height, width, seed=0):
  """Returns a smooth random picture, [height, width, 3] uint8."""
  noise = np.random.default_rng(seed).uniform(0, 255, [1, 24, 32, 3])
  smooth = tf.image.resize(noise, [height, width], method="bicubic")[0]
  return np.clip(smooth.numpy(), 0, 255).astype(np.uint8)


def _straightforward(model, scales):
  """Returns a function of an image, traced for each size."""

  @tf.function(autograph=False)
  def extract(image):
    pixels = feature_extractor.NormalizePixelValues(image)[tf.newaxis]
    boxes, features, scores, descriptors = [], [], [], []
    for scale in scales:
      size = [round(side * scale) for side in image.shape[:2]]
      scaled = tf.image.resize(pixels, size)
      descriptor, attention, found = model.build_call(scaled, training=False)
      shape = tf.shape(found)
      boxes.append(
        feature_extractor.CalculateReceptiveBoxes(
          shape[1], shape[2], 291, 16, 145
        )
        / scale
      )
      features.append(tf.reshape(found, [-1, found.shape[-1]]))
      scores.append(tf.reshape(attention, [-1]))
      descriptors.append(descriptor)
    boxes, scores = tf.concat(boxes, 0), tf.concat(scores, 0)
    kept = tf.image.non_max_suppression(boxes, scores, _MOST, 1.0)
    local = tf.gather(tf.concat(features, 0), kept)
    return tf.gather(boxes, kept), local, tf.concat(descriptors, 0)

  return lambda image: [v.numpy() for v in extract(tf.constant(image))]


def _clock(function, *arguments):
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def _single(image, ways, repeats):
  """Returns {way: seconds}; the ways take turns, so that drift hits all."""
  for function in ways.values():
    function(image)
  times = {name: [] for name in ways}
  for _ in range(repeats):
    for name, function in ways.items():
      times[name].append(_clock(function, image))
  return {name: statistics.median(values) for name, values in times.items()}


def _network(model, scales, indices):
  """Returns a function that runs what joint extraction runs of the network.

  The same pyramid and calls in one exported graph, with a sum in place of the
  selection.
  """
  calls = network.Network(model)
  image_spec = tf.TensorSpec([None, None, 3], tf.uint8)

  @tf.function(input_signature=[image_spec], autograph=False)
  def run(image):
    pixels = feature_extractor.NormalizePixelValues(image)[tf.newaxis]
    sums = []
    for index, scale in enumerate(scales):
      call = calls.full if index in indices else calls.local
      outputs = call(multi_scale.resize(pixels, scale))
      sums += [tf.reduce_sum(output) for output in outputs]
    return {"sum": tf.add_n(sums)}

  with tempfile.TemporaryDirectory() as folder:
    # As in the export that is measured against it.
    with folding.folded(model):
      traced = run.get_concrete_function()
      exporting.save({"serving_default": traced}, folder)
    loaded = tf.saved_model.load(folder)
  call = loaded.signatures["serving_default"]
  return lambda image: call(tf.constant(image))["sum"].numpy()


def _print_single(times, size):
  base = times["straightforward"]
  print(f"One image of {size}, warm")
  for name, seconds in times.items():
    print(f"  {name:16} {seconds:8.2f} s  {base / seconds:5.2f}x")
  outside = 1 - times["network of joint"] / times["joint"]
  print(f"  share of joint extraction outside the network: {outside:.1%}")


def _print_folder(joint, model, scales, options):
  width, height = (int(side) for side in options.size.split("x"))
  number = min(10, options.images)
  sizes = [
    (height * (20 - i) // 20, width * (20 - i * 7 % 10) // 20)
    for i in range(number)
  ]
  images = [_image(*sizes[i % number], i) for i in range(options.images)]
  plain = _straightforward(model, scales)
  ways = {"straightforward": plain, "joint": joint.extract}
  seconds = {
    name: sum(_clock(function, image) for image in images)
    for name, function in ways.items()
  }
  print(f"{len(images)} images in {number} sizes, with tracing")
  for name, total in seconds.items():
    ratio = seconds["straightforward"] / total
    print(f"  {name:16} {total:8.2f} s  {ratio:5.2f}x")


def _print_openvino(model, image):
  """Compares one pass of the network at scale 1."""
  import openvino

  calls = network.Network(model)
  pixels = feature_extractor.NormalizePixelValues(image)[tf.newaxis]
  with tempfile.TemporaryDirectory() as folder:
    with folding.folded(model):
      full = calls.full.get_concrete_function()
      exporting.save({"serving_default": _named(full)}, folder)
    loaded = tf.saved_model.load(folder).signatures["serving_default"]
    converted = openvino.convert_model(folder, input=list(pixels.shape))
  compiled = openvino.compile_model(converted, "CPU")
  feed = pixels.numpy()
  ways = {
    "TensorFlow": lambda: loaded(pixels)["d"].numpy(),
    "OpenVINO": lambda: compiled([feed]),
  }
  for function in ways.values():
    function()
  print("The network at one scale")
  for name, function in ways.items():
    seconds = statistics.median(_clock(function) for _ in range(3))
    print(f"  {name:16} {seconds:8.2f} s")


def _named(function):
  """Returns a concrete function whose outputs have names."""
  images = tf.TensorSpec([None, None, None, 3], tf.float32, "images")

  @tf.function(input_signature=[images])
  def call(images):
    descriptor, attention, features = function(images)
    return {"d": descriptor, "a": attention, "f": features}

  return call.get_concrete_function()


if __name__ == "__main__":
  main()
