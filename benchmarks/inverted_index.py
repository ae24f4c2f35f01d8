"""Speed and size of the inverted index, against comparing every pair.

`python -m benchmarks.inverted_index` prints two tables; about five minutes.
`--large` adds 200 000 images: 8 GB of disk, and as long again.
"""

import argparse
import os
import pathlib
import tempfile
import time
import tracemalloc

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from delf.indexes import inverted  # noqa: E402

_CODEBOOK, _BYTES, _WORDS, _TOP = 65536, 16, 900, 100
_OPTIONS = inverted.AsmkOptions(dimension=8 * _BYTES)
# Images that are made, and added, at once.
_CHUNK = 1000
# Images that one of the files has from which a large index is merged.
_PART = 20_000
# All words as frequent; about as in photos (training photos have 0.08, 0.10 and
# 0.15 with codebooks of 1024, 4096 and 16384 words); and far more uneven, the
# last about as the words of a text.
_SKEWS = (0, 0.2, 0.7, 1)


class Collection:
  """Synthetic images: random bits, words by frequency.

  The i-th frequent word has a share of 1 / i^skew, and each image as many draws
  as give it 900 different words on average.
  """

  def __init__(self, skew, seed):
    shares = np.arange(1, _CODEBOOK + 1) ** -float(skew)
    shares /= shares.sum()
    self._cumulative = np.cumsum(shares)
    draws = np.arange(_WORDS, 10 * _WORDS)
    expected = [(1 - (1 - shares) ** n).sum() for n in draws[::20]]
    self._draws = int(draws[::20][np.searchsorted(expected, _WORDS)])
    self._random = np.random.default_rng(seed)

  def images(self, number):
    """Return a list of (bits [M, 16] uint8, words [M] int32)."""
    draws = self._random.random((number, self._draws))
    draws.sort(axis=1)
    words = np.searchsorted(self._cumulative, draws.reshape(-1))
    words = np.minimum(words, _CODEBOOK - 1).astype(np.int32)
    words = words.reshape(draws.shape)
    different = np.diff(words, axis=1, prepend=-1) > 0
    bounds = np.cumsum(different.sum(axis=1))[:-1]
    words = words[different]
    bits = np.frombuffer(self._random.bytes(len(words) * _BYTES), np.uint8)
    bits = bits.reshape(-1, _BYTES)
    return list(
      zip(np.split(bits, bounds), np.split(words, bounds), strict=True)
    )


def word_by_word(first, second):
  """Return the similarity of two images as the original's loop finds it.

  It goes through two sorted lists of words in step, and took 2.25 ms a pair
  where it was recorded.
  """
  (bits_1, words_1), (bits_2, words_2) = first, second
  total, i, j = 0.0, 0, 0
  while i < len(words_1) and j < len(words_2):
    if words_1[i] == words_2[j]:
      u = 1 - 2 * np.unpackbits(bits_1[i] ^ bits_2[j]).sum() / (8 * _BYTES)
      if u > _OPTIONS.tau:
        total += np.sign(u) * abs(u) ** _OPTIONS.alpha
      i, j = i + 1, j + 1
    elif words_1[i] < words_2[j]:
      i += 1
    else:
      j += 1
  return total / np.sqrt(len(words_1) * len(words_2))


def pairwise(first, second):
  """Return the same by array operations on the words that both have."""
  (bits_1, words_1), (bits_2, words_2) = first, second
  _, places_1, places_2 = np.intersect1d(
    words_1, words_2, assume_unique=True, return_indices=True
  )
  differing = np.unpackbits(bits_1[places_1] ^ bits_2[places_2], axis=1)
  u = 1 - 2 * differing.sum(axis=1) / (8 * _BYTES)
  kept = u[u > _OPTIONS.tau]
  total = (np.sign(kept) * np.abs(kept) ** _OPTIONS.alpha).sum()
  return total / np.sqrt(len(words_1) * len(words_2))


def _names(first, number):
  return [f"image_{i}" for i in range(first, first + number)]


def _filled(collection, first, number):
  """Return an index of `number` images, and the seconds for adding them."""
  index, seconds = inverted.InvertedIndex(_OPTIONS), 0.0
  for start in range(0, number, _CHUNK):
    size = min(_CHUNK, number - start)
    images = collection.images(size)
    begin = time.perf_counter()
    index.add(_names(first + start, size), images)
    seconds += time.perf_counter() - begin
  return index, seconds


def _built(collection, number, folder):
  """Return an index; a large one is merged from files, as it should be."""
  if number <= _PART:
    return _filled(collection, 0, number)
  index, seconds = inverted.InvertedIndex(_OPTIONS), 0.0
  for start in range(0, number, _PART):
    size = min(_PART, number - start)
    part, took = _filled(collection, start, size)
    path = folder / f"part_{start}"
    begin = time.perf_counter()
    part.save(path)
    del part
    index.merge(inverted.InvertedIndex.load(path))
    seconds += took + time.perf_counter() - begin
  return index, seconds


def _milliseconds(index, queries):
  """Return median wall and processor milliseconds of a query's search."""
  index.search(queries[:1], _TOP)
  times = []
  for query in queries:
    begin = time.perf_counter(), time.process_time()
    index.search([query], _TOP)
    end = time.perf_counter(), time.process_time()
    times.append(1000 * np.subtract(end, begin))
  wall, processor = np.median(times, axis=0)
  return f"{wall:.2f} / {processor:.2f}"


def _compare(function, queries, images, pairs):
  """Return the scores of pairs, and the processor seconds that one takes."""
  begin = time.process_time()
  scores = [function(queries[q], images[i]) for q, i in pairs]
  return scores, (time.process_time() - begin) / len(pairs)


def against_pairs(number, sample):
  """Print the time of each way for 70 queries."""
  print(f"70 queries, {number} images, {_WORDS} words of {_CODEBOOK}, 128 bits")
  print(f"pairs: {sample} measured (a tenth word by word), counted up to all;")
  print("processor seconds; of a query, median wall / processor milliseconds")
  print(
    "words    shared   word by word s      pairs s   index s      ratios"
    "   query wall / ms   difference"
  )
  for skew in _SKEWS:
    collection = Collection(skew, 1)
    images, queries = collection.images(number), collection.images(70)
    index = inverted.InvertedIndex(_OPTIONS)
    index.add(_names(0, number), images)
    random = np.random.default_rng(2)
    pairs = random.integers([70, number], size=(sample, 2)).tolist()
    index.search(queries[:3], _TOP)
    begin = time.process_time()
    index.search(queries, _TOP)
    ours = time.process_time() - begin
    expected, seconds = _compare(pairwise, queries, images, pairs)
    _, slow = _compare(word_by_word, queries, images, pairs[::10])
    query = _milliseconds(index, queries)
    scores = np.array([index.score_all(query) for query in queries])
    difference = np.abs(scores[tuple(np.transpose(pairs))] - expected).max()
    shared = np.mean(
      [len(np.intersect1d(queries[q][1], images[i][1])) for q, i in pairs[:99]]
    )
    slow, fast = slow * 70 * number, seconds * 70 * number
    print(
      f"1/i^{skew:<4} {shared:6.1f} {slow:16.1f} {fast:12.1f} {ours:9.3f}"
      f" {slow / ours:7.0f}x {fast / ours:4.0f}x {query:>16}"
      f" {difference:12.1e}"
    )


def memory(number):
  """Print the memory of an index during and after building."""
  images = Collection(0, 1).images(number)
  packed = sum(bits.nbytes for bits, _ in images)
  tracemalloc.start()
  index = inverted.InvertedIndex(_OPTIONS)
  for start in range(0, number, _CHUNK):
    names = _names(start, len(images[start : start + _CHUNK]))
    index.add(names, images[start : start + _CHUNK])
  held, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  print(
    f"\nmemory of {number} images, names included: {held / 1e6:.1f} MB,"
    f" {held / packed:.2f}x the packed bits; at most {peak / packed:.2f}x"
    " while they are added"
  )


def growth(sizes, folder):
  """Print how time and size grow with the number of images."""
  print(
    f"\ngrowth: {_WORDS} words an image, 20 queries, top {_TOP}, from the file"
  )
  print(
    "words        images   add s   save s   load ms   verify s   file MB"
    "   /packed   query wall / ms"
  )
  for skew in (0, 0.7):
    for number in sizes:
      collection = Collection(skew, 1)
      index, adding = _built(collection, number, folder)
      path, begin = folder / "index", time.perf_counter()
      index.save(path)
      saving, begin = time.perf_counter() - begin, time.perf_counter()
      del index
      for part in folder.glob("part_*"):
        part.unlink()
      index = inverted.InvertedIndex.load(path)
      loading, begin = time.perf_counter() - begin, time.perf_counter()
      inverted.InvertedIndex.load(path, verify=True)
      verifying = time.perf_counter() - begin
      query = _milliseconds(index, collection.images(20))
      size = path.stat().st_size
      packed = _BYTES * int(index.word_counts.sum(dtype=np.int64))
      print(
        f"1/i^{skew:<5} {number:9} {adding:7.1f} {saving:8.1f}"
        f" {1000 * loading:9.1f} {verifying:10.2f} {size / 1e6:9.1f}"
        f" {size / packed:8.2f}x {query:>17}",
        flush=True,
      )


def main():
  """Print the tables."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
    "--quick", action="store_true", help="1 000 images, 500 pairs"
  )
  parser.add_argument(
    "--large", action="store_true", help="growth up to 200 000 images"
  )
  args = parser.parse_args()
  if args.quick:
    print("quick: 1 000 images in place of 5 000, 500 pairs, no growth\n")
    against_pairs(1000, 500)
    memory(1000)
    return
  against_pairs(5000, 5000)
  memory(5000)
  sizes = [1000, 5000, 20_000, 50_000] + [200_000] * args.large
  with tempfile.TemporaryDirectory() as folder:
    growth(sizes, pathlib.Path(folder))


if __name__ == "__main__":
  main()
