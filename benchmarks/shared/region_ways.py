"""Ways to extract regions, each measured in a process of its own.

How many cores an operation of TensorFlow takes is set once in a process. A
process does a turn for each line of its input, a folder's name and the most
photos, and answers with a line: seconds and CPU seconds. So ways take turns,
and only one is at work.

  python -m benchmarks.shared.region_ways WAY PHOTOS OUT
"""

import functools
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from delf.base import boxes, files
from delf.base import boxes as box_arithmetic
from delf.embedded import samples
from delf.extraction import regions
from delf.inference import zoo
from delf.python import feature_io, utils

# Each with how it extracts.
CALLS = "a call per crop: MakeExtractor"
LOADED = "a call per crop: the pipeline's extractor"
LOADED_ONE = "the same, one core an operation"
PIPELINE = "pipeline in a program"
LIBRARY = "pipeline in a process that has begun"
WAYS = (CALLS, LOADED, LOADED_ONE, LIBRARY, PIPELINE)


class Detector:
  """The boxes of `sample_detector`, without a model to load."""

  def detect(self, images):
    """Return detections.Detections of each image."""
    classes = np.ones(len(samples.SCORES))
    found = boxes.make_detections(samples.BOXES, samples.SCORES, classes)
    return [found] * len(images)


class Way:
  """A way in a process that waits for its turns."""

  def __init__(self, way, photos, out):
    """Start it.

    Args:
      way: One of WAYS.
      photos: Folder of photos.
      out: Folder to be; each turn has a folder of its name in it.
    """
    command = [sys.executable, "-m", __spec__.name, way, photos, out]
    self._process = subprocess.Popen(
      list(map(str, command)),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )

  def turn(self, name, most):
    """Do the first photos; return seconds and CPU seconds."""
    self._process.stdin.write(f"{name} {most}\n")
    self._process.stdin.flush()
    answer = self._process.stdout.readline().split()
    if len(answer) != 2:
      raise RuntimeError("a way to extract ended; run it alone to see why")
    return tuple(map(float, answer))

  def close(self):
    """End it."""
    self._process.stdin.close()
    self._process.wait()


def main(way, photos, out):
  """Do turns until the input ends."""
  run = _prepare(way)
  for line in sys.stdin:
    name, most = line.split()
    folder = pathlib.Path(out, name)
    folder.mkdir(parents=True)
    chosen = files.find_images(photos)[: int(most)]
    start, busy = time.perf_counter(), _cpu()
    run(chosen, folder)
    print(time.perf_counter() - start, _cpu() - busy, flush=True)


def _prepare(way):
  """Return a function of photos and a folder, with the model loaded."""
  from delf.inference import extractor, saved_model
  from delf.python.examples import extractor as examples

  config = zoo.choose(None, None)
  config.use_global_features = False
  if way in (PIPELINE, LOADED_ONE) and not saved_model.use_one_core_each():
    raise RuntimeError("TensorFlow has begun")
  if way == CALLS:
    call = examples.MakeExtractor(config)
    return functools.partial(_in_sequence, lambda i: call(i)["local_features"])
  model = extractor.make_extractor(config)
  if way in (PIPELINE, LIBRARY):
    return functools.partial(_pipeline, model)
  return functools.partial(_in_sequence, functools.partial(_local, model))


def _local(model, image):
  """Return local features like the original's extractor."""
  local = model.extract(image).local
  names = ("locations", "scales", "descriptors", "attention")
  return {name: getattr(local, name) for name in names}


def _in_sequence(extract, photos, out):
  """Extract like a script that uses only the original's functions."""
  for path in photos:
    image = np.asarray(utils.RgbLoader(path))
    (found,) = Detector().detect(image[None])
    corners = box_arithmetic.to_crops(found.boxes, *image.shape[:2])
    crops = [image]
    crops += [image[y:y2, x:x2] for y, x, y2, x2 in corners.tolist()]
    stem = pathlib.Path(path).stem
    for number, crop in enumerate(crops):
      feature_io.WriteToFile(
        os.fspath(out / f"{stem}_{number}.delf"), **extract(crop)
      )


def _pipeline(model, photos, out):
  regions.extract_regions(
    photos,
    model.config,
    Detector(),
    out,
    out / "boxes",
    out / "mapping.csv",
    extractor=model,
  )


def _cpu():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
  main(*sys.argv[1:])
