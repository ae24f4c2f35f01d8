"""Generates `delf/protos/*_pb2.py` and `*_pb2.pyi`, or checks them."""

import argparse
import pathlib
import subprocess
import sys
import tempfile

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FOLDER = _ROOT / "delf" / "protos"


def _generate(folder):
  """Write the generated code of all protos below a folder."""
  protos = sorted(str(path) for path in _FOLDER.glob("*.proto"))
  command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_ROOT}"]
  outputs = [f"--python_out={folder}", f"--pyi_out={folder}"]
  subprocess.run([*command, *outputs, *protos], check=True)
  for path in pathlib.Path(folder, "delf", "protos").glob("*_pb2.pyi"):
    path.write_text("# ruff: noqa\n# fmt: off\n" + path.read_text())


def _stale():
  """Return the names of files that differ from newly generated ones."""
  with tempfile.TemporaryDirectory() as folder:
    _generate(folder)
    fresh = pathlib.Path(folder, "delf", "protos")
    names = {path.name for path in fresh.glob("*_pb2.py*")}
    names |= {path.name for path in _FOLDER.glob("*_pb2.py*")}
    return sorted(
      name for name in names if _read(fresh / name) != _read(_FOLDER / name)
    )


def _read(path):
  return path.read_bytes() if path.exists() else None


def main():
  """Generate the code, or with `--check` return 1 if a file is stale."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--check", action="store_true", help="only check")
  if not parser.parse_args().check:
    _generate(_ROOT)
    return 0
  stale = _stale()
  for name in stale:
    print(f"delf/protos/{name}: stale, run make protos", file=sys.stderr)
  print(f"protos: {'stale' if stale else 'fresh'}")
  return 1 if stale else 0


if __name__ == "__main__":
  sys.exit(main())
