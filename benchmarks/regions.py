"""Features of regions: one call per crop against the pipeline; what boxes cost.

One call per crop decodes a photo once, finds its boxes, and extracts the whole
photo and each box in turn, writing each. The pipeline extracts them side by
side. Both use one loaded model and do the photos in turns, so that a slow
moment of the machine meets both.

  python -m benchmarks.regions               photos of scikit-image, five boxes
  python -m benchmarks.regions --photos FOLDER --number 20
  python -m benchmarks.regions --growth      size and time by boxes per image
"""

import argparse
import pathlib
import resource
import statistics
import tempfile
import time

import numpy as np
import PIL.Image

from delf.python import aggregation, detections, feature_io, files, utils
from delf.python import boxes as box_arithmetic
from delf.python.inference import extractor
from delf.python.pipelines import (
  extract_regions,
  sample_detector,
  samples,
  settings,
)
from delf.python.retrieval import asmk_scores, inverted_index

# Longer side of the photos that are made of scikit-image's.
_SIZE = 800


class _Detector:
  """The boxes of `sample_detector`, without a model to load."""

  def detect(self, images):
    """Returns detections.Detections of each image."""
    classes = np.ones(len(sample_detector.SCORES))
    found = detections.of_model(
      sample_detector.BOXES, sample_detector.SCORES, classes
    )
    return [found] * len(images)


def main():
  """Runs the benchmark that the arguments ask for."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--photos", help="folder (default: of scikit-image)")
  parser.add_argument("--number", type=int, default=12)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--growth", action="store_true")
  parser.add_argument(
    "--quick", action="store_true", help="2 photos, one round"
  )
  args = parser.parse_args()
  if args.quick:
    print("Quick: 2 photos, one round.")
    args.number, args.rounds = 2, 1
  if args.growth or args.quick:
    _grow(200 if args.quick else 5000)
  if not args.growth:
    _compare(args)


def _compare(args):
  config = settings.choose(None, None)
  config.use_global_features = False
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    photos = _photos(args, scratch)
    model = extractor.make_extractor(config)
    _in_sequence(photos[:1], model, scratch / "warm-up")
    times = {"one call per crop": [], "pipeline": []}
    for turn in range(args.rounds):
      for name, run in (
        ("one call per crop", _in_sequence),
        ("pipeline", _pipeline),
      ):
        start, busy = time.perf_counter(), _cpu()
        run(photos, model, scratch / f"{name}_{turn}")
        spent = time.perf_counter() - start
        times[name].append((spent, _cpu() - busy))
      _check_equal(*(scratch / f"{name}_{turn}" for name in times))
    _print(times, len(photos))


def _photos(args, scratch):
  if args.photos:
    return files.find_images(args.photos)[: args.number]
  made = []
  originals = samples.write_sample_photos(scratch / "originals")
  for number in range(args.number):
    with PIL.Image.open(originals[number % len(originals)]) as photo:
      # Each of another size, as photos of a collection are.
      size = (_SIZE - 4 * number, 3 * _SIZE // 4 - 3 * number)
      made.append(str(scratch / f"{number}.jpg"))
      photo.resize(size).save(made[-1], quality=92)
  return made


def _in_sequence(photos, model, out):
  out.mkdir()
  for path in photos:
    image = np.asarray(utils.RgbLoader(path))
    (found,) = _Detector().detect(image[None])
    corners = box_arithmetic.to_crops(found.boxes, *image.shape[:2])
    crops = [image]
    crops += [image[y:y2, x:x2] for y, x, y2, x2 in corners.tolist()]
    stem = pathlib.Path(path).stem
    for number, crop in enumerate(crops):
      local = model.extract(crop).local
      feature_io.WriteToFile(
        str(out / f"{stem}_{number}.delf"),
        local.locations,
        local.scales,
        local.descriptors,
        local.attention,
        local.orientations,
      )


def _pipeline(photos, model, out):
  extract_regions.extract_regions(
    photos,
    model.config,
    _Detector(),
    out,
    out / "boxes",
    out / "mapping.csv",
    extractor=model,
  )


def _check_equal(first, second):
  names = sorted(path.name for path in first.glob("*.delf"))
  assert names
  for name in names:
    assert (first / name).read_bytes() == (second / name).read_bytes(), name


def _cpu():
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def _print(times, number):
  print(f"{number} photos, {len(sample_detector.BOXES)} boxes each:")
  print(f"{'':20}{'s / photo':>10}{'CPU s / photo':>15}{'ratio':>8}")
  base = [spent for spent, _ in times["one call per crop"]]
  for name, turns in times.items():
    spent, busy = (statistics.median(each) for each in zip(*turns, strict=True))
    ratio = statistics.median(
      one / this for one, (this, _) in zip(base, turns, strict=True)
    )
    print(f"{name:20}{spent / number:10.2f}{busy / number:15.2f}{ratio:8.2f}")
  print("The files of both are equal, byte by byte.")


def _grow(number):
  """Prints size and query time of indexes by regions that are images' own.

  Each region is an image of the index of its own, as `delf index --regions` has
  it, and alternatively all of an image are aggregated together (R-ASMK*).
  """
  print(f"{number} images, random features of clustered words:")
  print(f"{'boxes':>5}{'index MB':>10}{'query ms':>10}", end="")
  print(f"{'R-ASMK* MB':>12}{'query ms':>10}")
  generator = np.random.default_rng(0)
  for boxes in (0, 1, 2, 5, 10):
    print(f"{boxes:5}", end="")
    for joined in (False, True):
      size, spent = _index(generator, number, boxes, joined)
      print(f"{size / 2**20:{12 if joined else 10}.1f}{spent:10.2f}", end="")
    print()


def _index(generator, number, boxes, joined):
  """Returns the bytes of an index, and the ms of a query."""
  index = inverted_index.InvertedIndex(asmk_scores.AsmkOptions())
  names = range(number if joined else number * (boxes + 1))
  images = (_words(generator, boxes if joined else 0) for _ in names)
  index.add([str(name) for name in names], images)
  queries = [_words(generator, 0) for _ in range(5)]
  start = time.perf_counter()
  index.search(queries, 100)
  return index.nbytes, 1000 * (time.perf_counter() - start) / len(queries)


def _words(generator, boxes, words=65536, most=600):
  """Returns an aggregate: 600 words of the image, and of each box 60 new."""
  chosen = np.unique(generator.integers(0, words, most + 60 * boxes))
  bits = generator.integers(0, 256, [len(chosen), 16], dtype=np.uint8)
  return aggregation.Aggregated(bits, chosen.astype(np.int32))


if __name__ == "__main__":
  main()
