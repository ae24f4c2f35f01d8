"""The page of results: time, size and memory, and how fast a browser opens it.

Photos of 1024 x 768 pixels, 20 results a query, 50 lines a result; each photo
is shown once, or all results are among 100. The baseline of the time is that of
copies made of whole photos: decoded at full size, then shrunk. Opening is
measured by the page itself, in Chromium or Chrome where there is one: until its
script has run, with all of the page there.

  python -m benchmarks.results_page          1, 50 and 500 queries
  python -m benchmarks.results_page --quick  1 and 20
"""

import argparse
import io
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import tracemalloc

import numpy as np
from PIL import Image

from delf.pictures import results_page
from delf.python import utils

_RESULTS, _LINES, _FEW, _STORED = 20, 50, 100, 40
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ROW = "{:>7} {:>7} {:>7} {:>8} {:>9} {:>9} {:>9} {:>10}"


def main():
  """Print the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--quick", action="store_true", help="1 and 20 queries")
  args = parser.parse_args()
  browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
  if browser is None:
    print("No Chromium or Chrome here: opening is not measured.")
  with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    photos = _photos(scratch)
    whole = _seconds_of_whole(photos)
    print(f"A copy of a whole photo (baseline): {1000 * whole:.1f} ms")
    print(
      _ROW.format(
        "queries", "results", "photos", "MB", "seconds", "ms/photo",
        "memory MB", "open ms",
      )
    )  # fmt: skip
    for queries in (1, 20) if args.quick else (1, 50, 500):
      for distinct in (queries * (_RESULTS + 1), _FEW):
        _measure(scratch, photos, queries, distinct, browser)


def _photos(folder):
  """Return paths of photos with some noise, about 200 kB each."""
  random, paths = np.random.default_rng(0), []
  for number in range(_STORED):
    small = random.integers(0, 255, (12, 16, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((1024, 768)), np.int16)
    noisy = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255)
    paths.append(folder / f"{number}.jpg")
    Image.fromarray(noisy.astype(np.uint8)).save(paths[-1], quality=90)
  return paths


def _seconds_of_whole(photos):
  start = time.perf_counter()
  for path in photos:
    copy = utils.RgbLoader(path).resize((160, 120), Image.Resampling.LANCZOS)
    copy.save(io.BytesIO(), "JPEG", quality=72, optimize=True)
  return (time.perf_counter() - start) / len(photos)


def _queries(folder, photos, number, distinct):
  """Yield queries over `distinct` names for the stored photos."""
  lines = np.random.default_rng(1).uniform(0, 700, (_LINES, 4))

  def path(place):
    link = folder / f"link_{place % distinct}.jpg"
    if not link.exists():
      link.symlink_to(photos[place % len(photos)])
    return link

  for query in range(number):
    first = query * (_RESULTS + 1)
    results = tuple(
      results_page.Result(f"photo {first + rank}", path(first + rank), 1 / rank,
                     _LINES, results_page.TRUE, lines)
      for rank in range(1, _RESULTS + 1)
    )  # fmt: skip
    yield results_page.Query(f"query {query}", path(first), results)


def _measure(scratch, photos, number, distinct, browser):
  page = scratch / "page.html"

  # Counting memory slows Python down, and the copies, which take the time, not.
  tracemalloc.start()
  start = time.perf_counter()
  queries = _queries(scratch, photos, number, distinct)
  report = results_page.write(page, "Benchmark", queries)
  seconds = time.perf_counter() - start
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  opened = "-" if browser is None else _open_milliseconds(page, browser)
  print(
    _ROW.format(
      number, report.results, report.photos, f"{report.size / 1e6:.2f}",
      f"{seconds:.1f}", f"{1000 * seconds / report.photos:.1f}",
      f"{peak / 1e6:.1f}", opened,
    ),
    flush=True,
  )  # fmt: skip


def _open_milliseconds(page, browser):
  with tempfile.TemporaryDirectory() as profile:
    command = [
      browser, "--headless=new", "--disable-gpu", "--no-first-run",
      f"--user-data-dir={profile}", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
      command.insert(1, "--no-sandbox")
    found = subprocess.run(command, capture_output=True, text=True).stdout
  ready = re.search(r'<html[^>]* data-ready="(\d+)"', found)
  return ready[1] if ready else "failed"


if __name__ == "__main__":
  main()
