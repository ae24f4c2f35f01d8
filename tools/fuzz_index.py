"""Fuzz test of approximate indexes: damages files, then loads and uses them.

A damaged file must either be refused by an InputError or be usable (search,
change, save) without a crash, a hang or another error. Child processes do the
work, so that crashes are detected; the number of a failed file is printed, and
`--first N --number 1` repeats it.

  python tools/fuzz_index.py --number 20000
"""

import argparse
import collections
import faulthandler
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

from delf.base import errors
from delf.formats import array_file
from delf.indexes import approximate

_KIND = "approximate index"
_OPTIONS = {
  "hnsw": {"links": 4, "build_depth": 20},
  "ivfpq": {"lists": 6, "probes": 3, "code_bytes": 4},
}
_IMAGES, _DIMENSION = 300, 8
# Sizes and numbers that are likely to break readers.
_NUMBERS = [0, 1, 2, 3, 7, 8, 255, 256, _IMAGES - 1, _IMAGES, _IMAGES + 1]
_NUMBERS += [
  -1,
  -2,
  *(2**n - d for n in (15, 31, 32, 40, 62, 63) for d in (0, 1)),
]
_SECONDS = 20  # A file that takes longer counts as a hang.
_BATCH = 500  # Files per child process.


def main():
  """Test files in child processes, or as a child test a range of files."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--number", type=int, default=20000, help="files to test")
  parser.add_argument("--first", type=int, default=0, help="first file number")
  parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
  args = parser.parse_args()
  numbers = range(args.first, args.first + args.number)
  if args.child:
    _use_all(pathlib.Path(args.child), numbers)
    return
  total, bad = collections.Counter(), []
  with tempfile.TemporaryDirectory() as folder:
    first = numbers.start
    while first < numbers.stop:
      last = min(first + _BATCH, numbers.stop)
      done, counts, error = _run_child(folder, first, last - first)
      total += counts
      if done < last:
        bad.append(done)
        print(f"file {done}: {error}", flush=True)
      first = done + 1 if done < last else last
  print(json.dumps({"files": len(numbers), **total, "bad": bad}))
  sys.exit(bool(bad))


def _run_child(folder, first, number):
  """Return the file that ended a child, counts of results, and the error."""
  numbers = ["--first", str(first), "--number", str(number)]
  run = subprocess.run(
    [sys.executable, __file__, "--child", folder, *numbers],
    capture_output=True,
    text=True,
  )
  results = run.stdout.splitlines()
  error = f"exit status {run.returncode}: {run.stderr[-2000:]}"
  return first + len(results), collections.Counter(results), error


def _use_all(folder, numbers):
  for method in _OPTIONS:
    index = approximate.ApproximateIndex(method, **_OPTIONS[method])
    index.add([f"{i}" for i in range(_IMAGES)], _vectors(_IMAGES))
    index.save(folder / method)
  for number in numbers:
    faulthandler.dump_traceback_later(_SECONDS, exit=True)
    random = np.random.default_rng([1, number])
    method = list(_OPTIONS)[number % 2]
    path = folder / f"{number}"
    _write_damaged(folder / method, path, random)
    try:
      index = approximate.ApproximateIndex.load(path)
    except errors.InputError:
      print(f"{method} refused", flush=True)
    else:
      _use(index, path)
      print(f"{method} used", flush=True)
    path.unlink()


def _use(index, path):
  """Search, change and save a loaded index."""
  ranking = index.search(_vectors(4), 10)
  if ranking.ids.max() >= len(index) or ranking.ids.min() < -1:
    raise ValueError(f"ids {ranking.ids} are not in an index of {len(index)}")
  index.remove(index.names[3:20])
  other = approximate.ApproximateIndex.load(path)
  other.remove(other.names)
  index.merge(other)
  index.add(["new", "newer"], _vectors(2))
  index.search(_vectors(4), 10, effort=100)
  index.remove(index.names[: len(index) * 2 // 3])
  index.search(_vectors(4), 10)
  index.save(path)
  approximate.ApproximateIndex.load(path).search(_vectors(4), 10)


def _vectors(number):
  values = np.random.default_rng(number).normal(size=(number, _DIMENSION))
  values /= np.linalg.norm(values, axis=1, keepdims=True)
  return values.astype(np.float32)


def _write_damaged(source, path, random):
  """Write a damaged copy; the checksums of most copies are correct."""
  if random.random() < 0.2:
    path.write_bytes(_damaged(np.fromfile(source, np.uint8), random).tobytes())
    return
  header, arrays = array_file.read(source, _KIND)
  name = random.choice(["faiss"] * 9 + ["alive"])
  damaged = _damaged(np.array(arrays[name]), random)
  array_file.write(path, _KIND, header, {**arrays, name: damaged})


def _damaged(data, random):
  """Return bytes with one kind of damage."""
  size, way = len(data), random.integers(6)
  fields = np.lib.stride_tricks.sliding_window_view(data, 8)
  fields = np.ascontiguousarray(fields).view("<u8")[:, 0]
  sizes = np.flatnonzero((fields > 0) & (fields <= size))
  if way == 0:
    for place in random.integers(size, size=random.integers(1, 9)):
      data[place] ^= 1 << random.integers(8)
  elif way == 1:
    data = data[: random.integers(size)]
  elif way == 2 and len(sizes):  # A field that may be a size.
    place = random.choice(sizes)
    _put(
      data, place, "<Q", _NUMBERS[random.integers(len(_NUMBERS))] & (2**64 - 1)
    )
  elif way == 3:
    place = random.integers(size - 4)
    _put(
      data, place, "<I", _NUMBERS[random.integers(len(_NUMBERS))] & (2**32 - 1)
    )
  elif way == 4:  # The header of faiss, or the end of the file.
    places = random.integers(min(size, 200), size=random.integers(1, 4))
    places = places if random.random() < 0.7 else -1 - places
    data[places] = random.integers(256, size=len(places))
  else:
    one, two = random.integers(max(size - 64, 1), size=2)
    length = random.integers(1, 64)
    data[one : one + length] = data[two : two + length].copy()
  return data


def _put(data, place, kind, value):
  packed = struct.pack(kind, int(value))
  data[place : place + len(packed)] = np.frombuffer(packed, np.uint8)


if __name__ == "__main__":
  main()
