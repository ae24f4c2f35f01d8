"""How long `import delf` and `delf --help` take."""

import argparse
import re
import statistics
import subprocess
import sys
import time

_TIME = re.compile(r"import time:\s*\d+ \|\s*(\d+) \| delf$", re.M)


def _import_ms():
  """Return the milliseconds of `import delf`, Python's own start apart."""
  command = [sys.executable, "-X", "importtime", "-c", "import delf"]
  result = subprocess.run(command, capture_output=True, text=True, check=True)
  return int(_TIME.search(result.stderr)[1]) / 1000


def _command_ms(*command):
  """Return the milliseconds that a command takes as a whole."""
  start = time.perf_counter()
  subprocess.run(command, capture_output=True, check=True)
  return (time.perf_counter() - start) * 1000


def main():
  """Print the median and the largest of some runs."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--quick", action="store_true", help="5 runs, not 20")
  runs = 5 if parser.parse_args().quick else 20
  python = sys.executable
  measures = {
    "import delf": _import_ms,
    "python -c pass": lambda: _command_ms(python, "-c", "pass"),
    "delf --help": lambda: _command_ms(python, "-m", "delf", "--help"),
  }
  print(f"{'':16} {'median':>8} {'largest':>8}  ms, {runs} runs")
  for name, measure in measures.items():
    values = [measure() for _ in range(runs)]
    median, largest = statistics.median(values), max(values)
    print(f"{name:16} {median:8.1f} {largest:8.1f}")


if __name__ == "__main__":
  main()
