"""Speed of extraction against straightforward inference.

The model is DELG on ResNet-50 with random weights, at the seven scales of the
published configurations, of which three give global descriptors. The baseline
is one call per image, with all scales and both heads, through a function that
TensorFlow traces again for each image size. "folded" is the same with batch
normalisation folded into the convolutions, as in exports, so that the remaining
difference is work that extraction avoids. Times include the network and the
image pyramid, but not reading and writing files.

  python -m benchmarks.extraction [--size 1024x768] [--images 20] [--quick]
  python -m benchmarks.extraction --openvino
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

from benchmarks.shared import extraction_ways
from delf.inference import extractor
from delf.networks import compact, exporting
from delf.protos import delf_config_pb2

_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
_GLOBAL = (3, 4, 5)


def main():
  """Measures, and prints a table."""
  # The straightforward way is traced again for each size: known, and the point.
  tf.get_logger().setLevel("ERROR")
  options = _options()
  if options.openvino:
    extraction_ways.find_openvino()
  width, height = (int(side) for side in options.size.split("x"))
  image = _image(height, width)
  scales, indices = _SCALES, _GLOBAL
  if options.quick:
    print("Quick: five scales, of which two are global; less is repeated.")
    scales, indices = _SCALES[:5], (3, 4)
  model = extraction_ways.make_model()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "model"
    exporting.export(model, path)
    _measure_single(model, path, image, scales, indices, options)
    if options.images:
      _measure_folder(model, path, scales, indices, options)
  if options.openvino:
    _measure_openvino(model, image, scales, options)


def _options():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--size", default="1024x768", help="width x height")
  parser.add_argument("--images", type=int, help="in the folder; 0 for none")
  parser.add_argument("--repeats", type=int)
  parser.add_argument("--quick", action="store_true", help="measure less")
  parser.add_argument(
    "--openvino", action="store_true", help="the network in OpenVINO as well"
  )
  options = parser.parse_args()
  if options.images is None:
    options.images = 4 if options.quick else 20
  if options.repeats is None:
    options.repeats = 2 if options.quick else 5
  return options


def _make_extractor(path, scales, indices, use_local=True, use_global=True):
  config = delf_config_pb2.DelfConfig(
    model_path=str(path),
    image_scales=scales,
    use_local_features=use_local,
    use_global_features=use_global,
  )
  config.delf_local_config.use_pca = False
  config.delf_local_config.max_feature_num = extraction_ways.MOST_FEATURES
  config.delf_local_config.score_threshold = 0.0
  config.delf_global_config.use_pca = False
  config.delf_global_config.image_scales_ind.extend(indices)
  return extractor.make_extractor(config)


def _image(height, width, seed=0):
  """Return a smooth random picture, [height, width, 3] uint8."""
  noise = np.random.default_rng(seed).uniform(0, 255, [1, 24, 32, 3])
  smooth = tf.image.resize(noise, [height, width], method="bicubic")[0]
  return np.clip(smooth.numpy(), 0, 255).astype(np.uint8)


def _clock(function, *arguments):
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def _take_turns(ways, repeats, *arguments):
  """Return {way: seconds}, warm; taking turns, so that drift meets all."""
  for function in ways.values():
    function(*arguments)
  times = {name: [] for name in ways}
  for _ in range(repeats):
    for name, function in ways.items():
      times[name].append(_clock(function, *arguments))
  return {name: statistics.median(values) for name, values in times.items()}


def _print_table(times):
  base = next(iter(times.values()))
  for name, seconds in times.items():
    print(f"  {name:24} {seconds:8.2f} s  {base / seconds:5.2f}x")


def _measure_single(model, path, image, scales, indices, options):
  """Measure one image, in each way, after a first call."""
  # A model of its own, as it stays folded while the other one is not.
  other = extraction_ways.make_model()
  ways = {
    "straightforward": extraction_ways.straightforward(model, scales),
    "straightforward, folded": extraction_ways.straightforward(other, scales),
    "joint": _make_extractor(path, scales, indices).extract,
    "local only": _make_extractor(
      path, scales, indices, use_global=False
    ).extract,
    "global only": _make_extractor(
      path, scales, indices, use_local=False
    ).extract,
    "network of joint": extraction_ways.network_alone(model, scales, indices),
  }
  with compact.folded(other):
    times = _take_turns(ways, options.repeats, image)
  print(f"One image of {options.size}, warm")
  _print_table(times)
  outside = 1 - times["network of joint"] / times["joint"]
  print(f"  share of joint extraction outside the network: {outside:.1%}")


def _measure_folder(model, path, scales, indices, options):
  """Measure images of several sizes, twice: at first, and once warm."""
  other = extraction_ways.make_model()
  width, height = (int(side) for side in options.size.split("x"))
  number = min(10, options.images)
  sizes = [
    (height * (20 - i) // 20, width * (20 - i * 7 % 10) // 20)
    for i in range(number)
  ]
  images = [_image(*sizes[i % number], i) for i in range(options.images)]
  ways = {
    "straightforward": extraction_ways.straightforward(model, scales),
    "straightforward, folded": extraction_ways.straightforward(other, scales),
    "joint": _make_extractor(path, scales, indices).extract,
  }
  order = list(ways)
  for state in ("the first time, with tracing", "once more, all traced"):
    times = dict.fromkeys(ways, 0.0)
    with compact.folded(other):
      for image in images:
        for name in order:
          times[name] += _clock(ways[name], image)
        order = order[1:] + order[:1]  # None is always first.
    print(
      f"{len(images)} images in {number} sizes, {state}; loading of the model"
      " is counted for neither"
    )
    _print_table(times)


def _measure_openvino(model, image, scales, options):
  """Measure the network alone, over the sizes of the pyramid."""
  with extraction_ways.openvino_ways(model, image, scales) as ways:
    difference = extraction_ways.largest_difference(
      *(function() for function in ways.values())
    )
    times = _take_turns(ways, options.repeats)
  print(f"The network over {len(scales)} scales of the image, float32, warm")
  _print_table(times)
  print(f"  largest difference of outputs: {difference:.1e} of the largest")


if __name__ == "__main__":
  main()
