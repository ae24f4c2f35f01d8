"""How long a warm search takes from Python beside the extraction alone.

The index has photos of a folder, or copies of the sample photos; each query is
extracted, and searched for, one after the other, so that both meet the same
noise. Other rows are what people do with the public functions.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import tempfile
import time

import delf


def _milliseconds(call):
  start = time.perf_counter()
  call()
  return (time.perf_counter() - start) * 1000


def _beyond_extraction(index, photos, rounds, **options):
  """Return medians: extraction, search, and the search less the extraction."""
  extract = index.model.extract
  rows = []
  for photo in photos * rounds:
    alone = _milliseconds(lambda photo=photo: extract(photo))
    whole = _milliseconds(lambda photo=photo: index.search(photo, **options))
    rows.append((alone, whole, whole - alone))
  return [statistics.median(column) for column in zip(*rows, strict=True)]


def _answer(index, photo, **options):
  """Return the milliseconds of a search for features that are known."""
  extracted = index.model.extract(photo)
  return statistics.median(
    _milliseconds(lambda: index.search(extracted, **options)) for _ in range(9)
  )


def main():
  """Print the times."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photos", type=pathlib.Path, help="folder to index")
  parser.add_argument("--quick", action="store_true", help="fewer queries")
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    samples = list(delf.sample_photos(work / "samples"))
    folder = args.photos or work / "samples"
    seconds = _milliseconds(delf.load) / 1000
    print(f"delf.load, embedded model: {seconds:.2f} s")
    index = delf.Index.build(folder, work / "index", progress=False)
    photos = sorted(index.photos.values())[: 3 if args.quick else 20]
    index.search(photos[0], verify=True)  # Loads the model.
    print(f"{index}")
    rounds = max(1, (9 if args.quick else 20) // len(photos))
    for name, options in (("search", {}), ("verify", {"verify": True})):
      alone, whole, more = _beyond_extraction(index, photos, rounds, **options)
      print(
        f"{name}: {whole:.0f} ms, extraction {alone:.0f} ms; median of the"
        f" difference {more:.1f} ms; of known features"
        f" {_answer(index, photos[0], **options):.1f} ms"
      )
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      each = _milliseconds(lambda: list(pool.map(index.search, photos)))
    print(f"4 threads: {each / len(photos):.0f} ms a photo")
    batch = (samples * 34)[:100]
    if not args.quick:
      seconds = _milliseconds(lambda: index.model.extract(batch)) / 1000
      print(f"a list of 100 photos: {seconds:.1f} s")


if __name__ == "__main__":
  main()
