"""Runs all benchmarks one after the other: `make bench`."""

import argparse
import os
import pathlib
import subprocess
import sys

_FOLDER = pathlib.Path(__file__).resolve().parent
_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2"}


def _names():
  """Return the names of the benchmark scripts."""
  return sorted(
    path.stem
    for path in _FOLDER.glob("*.py")
    if not path.name.startswith("_") and "def main(" in path.read_text()
  )


def _run(name, full):
  """Run one benchmark and return its exit status."""
  print(f"== {name}", flush=True)
  has_quick = "--quick" in (_FOLDER / f"{name}.py").read_text()
  arguments = ["--quick"] if has_quick and not full else []
  return subprocess.run(
    [sys.executable, "-m", f"benchmarks.{name}", *arguments],
    cwd=_FOLDER.parent,
    env={**os.environ, **_ENVIRONMENT},
  ).returncode


def main():
  """Run the named benchmarks, or all; return 1 if one failed."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("names", nargs="*", help=f"of {', '.join(_names())}")
  parser.add_argument(
    "--full",
    action="store_true",
    help="the whole measurement (default: a quick one)",
  )
  args = parser.parse_args()
  unknown = sorted(set(args.names) - set(_names()))
  if unknown:
    parser.error(f"no such benchmark: {', '.join(unknown)}")
  failed = [n for n in args.names or _names() if _run(n, args.full)]
  if failed:
    print(f"failed: {', '.join(failed)}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
