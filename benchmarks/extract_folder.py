"""Speed of `delf extract` on a folder, against a sequential loop.

The sequential loop reads an image, extracts and writes its features, one image
after the other. The pipeline decodes and writes in threads. Both use one loaded
model and take turns, so that slow moments of the machine affect both.

  python benchmarks/extract_folder.py                 20 photos of scikit-image
  python benchmarks/extract_folder.py FOLDER --config FILE
  python benchmarks/extract_folder.py --memory        bytes per pixel of a batch
"""

import argparse
import contextlib
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import PIL.Image

from delf.base import files
from delf.extraction import engine, extract
from delf.inference import extractor, zoo
from delf.python import utils

_NUMBER = 20


def main():
  """Run the requested benchmark."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("folder", nargs="?")
  parser.add_argument("--model")
  parser.add_argument("--config")
  parser.add_argument("--rounds", type=int, help="default: 3, quick 1")
  parser.add_argument(
    "--quick", action="store_true", help="4 small photos, and one round"
  )
  parser.add_argument("--workers", type=int, default=1)
  parser.add_argument("--batch", type=int)
  parser.add_argument("--memory", action="store_true")
  parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
  args = parser.parse_args()
  args.rounds = args.rounds or (1 if args.quick else 3)
  config = zoo.choose(args.model, args.config)
  if args.peak:
    print(_peak_memory(config, args.peak))
  elif args.memory:
    _measure_memory(config)
  else:
    _compare(config, args)


def _compare(config, args):
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    images = files.find_images(
      args.folder or _sample_photos(scratch, args.quick)
    )
    if args.quick:
      print("Quick: at most 4 images, one round.")
      images = images[:4]
    model = extractor.make_extractor(config)
    _in_sequence(images, config, model, scratch / "warm-up")
    times = {"in sequence": [], "pipeline": []}
    for i in range(args.rounds):
      start = time.perf_counter()
      _in_sequence(images, config, model, scratch / f"sequence_{i}")
      times["in sequence"].append(time.perf_counter() - start)
      report = extract.extract_to_files(
        images,
        config,
        scratch / f"pipeline_{i}",
        extractor=model,
        workers=args.workers,
        batch_size=args.batch,
      )
      times["pipeline"].append(report.seconds)
    _check_same(scratch, args)
    print(f"{len(images)} images, model {config.model_path}, {report.device}")
    for name, seconds in times.items():
      median = statistics.median(seconds)
      print(
        f"{name:12} {median:7.2f} s  {len(images) / median:6.2f} images/s"
        f"  (rounds: {', '.join(f'{s:.2f}' for s in seconds)})"
      )
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    print(f"ratio        {statistics.median(ratios):.2f}")


def _in_sequence(images, config, model, folder):
  """Reads, extracts and writes one image after the other."""
  output = extract.FeatureFolder(folder, config, files.DELF, {})
  with contextlib.closing(output):
    for job in engine.plan(images):
      image = np.asarray(utils.RgbLoader(job.path))
      output.write(job, model.extract(image))


def _check_same(scratch, args):
  if args.batch:  # Equal up to rounding; tests compare them.
    return
  for path in (scratch / "sequence_0").iterdir():
    assert (
      path.read_bytes() == (scratch / "pipeline_0" / path.name).read_bytes()
    )


def _sample_photos(scratch, quick):
  """Write large JPEGs, in four sizes, of the photos scikit-image brings."""
  import skimage.data

  folder = scratch / "photos"
  folder.mkdir()
  sources = [skimage.data.astronaut(), skimage.data.chelsea()]
  sources += [skimage.data.coffee(), skimage.data.rocket()]
  for i in range(_NUMBER):
    source = PIL.Image.fromarray(sources[i % 4])
    width, height = [(2048, 1536), (1536, 2048), (1600, 1200), (1920, 1080)][
      i % 4
    ]
    if quick:
      width, height = width // 4, height // 4
    photo = source.resize((width, height)).rotate(i // 4)
    photo.save(folder / f"{i:02}.jpg", quality=92)
  return folder


def _measure_memory(config):
  """Print the memory that each image more takes, in a process of its own."""
  peaks = {}
  for number in (1, 3):
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", str(number)]
    peaks[number] = int(subprocess.check_output(command).split()[-1])
    print(f"batch of {number}: {peaks[number] / 2**20:.0f} MiB at most")
  pixels = 640 * 480 * max(config.image_scales) ** 2
  print(f"{(peaks[3] - peaks[1]) / 2 / pixels:.0f} bytes per pixel and image")


def _peak_memory(config, number):
  """Return the most bytes that the process held."""
  model = extractor.make_extractor(config)
  image = np.random.default_rng(0).integers(0, 256, [480, 640, 3], np.uint8)
  model.extract_batch([image] * number)
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
  main()
