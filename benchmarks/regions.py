"""Speed of extracting regions, against one call per crop; cost of boxes.

The baseline decodes a photo once, detects boxes, then extracts and writes the
whole photo and each box in turn, like scripts for the original. It uses either
the original's interface `MakeExtractor` or the extractor of the pipeline. The
pipeline extracts photos and boxes in batches; in a separate program also with
one core per operation. All use the embedded model, each in a process of its
own, and take turns, so that slow moments of the machine affect all.

  python -m benchmarks.regions               photos of scikit-image, five boxes
  python -m benchmarks.regions --photos FOLDER --number 20
  python -m benchmarks.regions --growth      size and time by boxes per image
"""

import argparse
import pathlib
import shutil
import statistics
import tempfile
import time

import numpy as np
import PIL.Image

from benchmarks.shared import region_ways
from delf.aggregation import aggregate
from delf.base import concurrency, files
from delf.embedded import samples
from delf.indexes import inverted

_SIZE = 800  # Longer side of photos made from those of scikit-image.


def main():
  """Run the requested benchmark."""
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
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    photos = scratch / "photos"
    photos.mkdir()
    number = _put_photos(args, photos, scratch)
    outputs = {way: scratch / str(i) for i, way in enumerate(region_ways.WAYS)}
    ways = {w: region_ways.Way(w, photos, out) for w, out in outputs.items()}
    try:
      for way in ways.values():
        way.turn("warm-up", 2)
      times = {name: [] for name in ways}
      for turn in range(args.rounds):
        for name, way in ways.items():
          times[name].append(way.turn(turn, number))
        _check_equal([outputs[name] / str(turn) for name in ways])
    finally:
      for way in ways.values():
        way.close()
    _print(times, number)


def _put_photos(args, folder, scratch):
  """Fill a folder with photos; return how many."""
  if args.photos:
    chosen = files.find_images(args.photos)[: args.number]
    for path in chosen:
      shutil.copy(path, folder)
    return len(chosen)
  originals = samples.sample_photos(scratch / "originals")
  for number in range(args.number):
    with PIL.Image.open(originals[number % len(originals)]) as photo:
      # Each of another size, as photos of a collection are.
      size = (_SIZE - 4 * number, 3 * _SIZE // 4 - 3 * number)
      photo.resize(size).save(folder / f"{number}.jpg", quality=92)
  return args.number


def _check_equal(folders):
  first, *others = folders
  names = sorted(path.name for path in first.glob("*.delf"))
  assert names
  for name in names:
    data = (first / name).read_bytes()
    for other in others:
      assert (other / name).read_bytes() == data, (name, other)


def _print(times, number):
  cores = concurrency.core_count()
  print(f"{number} photos, {len(samples.BOXES)} boxes each, ", end="")
  print(f"{cores} cores; medians of turns, and the ratios to the first two:")
  print(f"{'':42}{'s / photo':>10}{'CPU s':>8}{'ratio':>8}{'ratio':>7}")
  bases = [times[name] for name in (region_ways.CALLS, region_ways.LOADED)]
  for name, turns in times.items():
    spent, busy = (statistics.median(each) for each in zip(*turns, strict=True))
    print(f"{name:42}{spent / number:10.3f}{busy / number:8.3f}", end=" ")
    for base in bases:
      ratio = statistics.median(
        one / this for (one, _), (this, _) in zip(base, turns, strict=True)
      )
      print(f"{ratio:7.2f}", end="")
    print()
  print("The files of all are equal, byte by byte.")


def _grow(number):
  """Print size and query time of indexes by regions that are images' own.

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
  """Return the bytes of an index, and the ms of a query."""
  index = inverted.InvertedIndex(inverted.AsmkOptions())
  names = range(number if joined else number * (boxes + 1))
  images = (_words(generator, boxes if joined else 0) for _ in names)
  index.add([str(name) for name in names], images)
  queries = [_words(generator, 0) for _ in range(5)]
  start = time.perf_counter()
  index.search(queries, 100)
  return index.nbytes, 1000 * (time.perf_counter() - start) / len(queries)


def _words(generator, boxes, words=65536, most=600):
  """Return an aggregate: 600 words of the image, and of each box 60 new."""
  chosen = np.unique(generator.integers(0, words, most + 60 * boxes))
  bits = generator.integers(0, 256, [len(chosen), 16], dtype=np.uint8)
  return aggregate.Aggregated(bits, chosen.astype(np.int32))


if __name__ == "__main__":
  main()
