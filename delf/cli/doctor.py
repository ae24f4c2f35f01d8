"""`delf doctor`: checks whether this installation works."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator

import delf
from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf doctor          each check with OK or FAIL, in about ten seconds
  delf doctor --json   the same for programs, and for reports of faults

The exit status is 0 if all checks pass, else 1.
"""

_PHOTO_SIDE = 480  # Longer side of the sample photos, in pixels.
# Photos of one scene have at least this many times the inliers of others. Less
# strict than a verdict, since this checks the computation on any device.
_CONTRAST = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  arguments.add(parser, "--json")


def run(args: argparse.Namespace) -> int:
  """Check, and print the results; return the exit status."""
  results = []
  for result in run_checkup():
    results.append(result)
    if not args.json:
      state = "OK  " if result.ok else "FAIL"
      line = f"{state} {result.name:<14} {result.detail}"
      line = textwrap.fill(
        f"{line} ({result.seconds:.1f} s)",
        width=shutil.get_terminal_size((100, 24)).columns,
        subsequent_indent=" " * 20,
        break_long_words=False,
        break_on_hyphens=False,
      )
      print(line, flush=True)
  failed = [result.name for result in results if not result.ok]
  if args.json:
    checks = [dataclasses.asdict(result) for result in results]
    output.print_json({"ok": not failed, "checks": checks})
  else:
    print(f"Failed: {', '.join(failed)}." if failed else "All is well.")
  return 1 if failed else 0


@dataclasses.dataclass(frozen=True)
class Result:
  """Result of a check: one line for people, `facts` for programs."""

  name: str
  ok: bool
  detail: str
  seconds: float
  facts: dict


def run_checkup() -> Iterator[Result]:
  """Run all checks, whether others fail or not."""
  for name, check in CHECKS.items():
    start = time.perf_counter()
    try:
      detail, facts = check()
      ok = True
    except Exception as error:  # A check reports any fault.
      detail = " ".join(str(error).split())
      if not isinstance(error, (errors.InputError, OSError)):
        detail = f"{type(error).__name__}: {detail}"
      ok, facts = False, {}
    yield Result(name, ok, detail, time.perf_counter() - start, facts)


def check_versions() -> tuple[str, dict]:
  """Check the versions of the packages that delf needs, extras aside."""
  from packaging import requirements

  try:
    lines = importlib.metadata.requires("delf") or []
  except importlib.metadata.PackageNotFoundError:
    raise errors.InputError(
      "delf is not installed, but run from a folder: `pip install .`"
    ) from None
  versions = {"delf": delf.__version__, "Python": platform.python_version()}
  wrong = []
  for needed in map(requirements.Requirement, lines):
    if needed.marker and not needed.marker.evaluate({"extra": ""}):
      continue
    try:
      version = importlib.metadata.version(needed.name)
    except importlib.metadata.PackageNotFoundError:
      wrong.append(f"no {needed.name}")
      continue
    versions[needed.name] = version
    if not needed.specifier.contains(version, prereleases=True):
      wrong.append(f"{needed.name} {version} and not {needed.specifier}")
  if wrong:
    raise errors.InputError(
      f"wrong packages: {', '.join(wrong)} (`pip install --force-reinstall"
      " delf`)",
      path=sys.prefix,
    )
  detail = ", ".join(f"{name} {version}" for name, version in versions.items())
  return detail, {"versions": versions, "platform": platform.platform()}


def check_devices() -> tuple[str, dict]:
  """List the devices that TensorFlow sees, and compute on the best."""
  import tensorflow as tf

  devices = []
  for device in tf.config.list_physical_devices():
    details = {}
    if device.device_type == "GPU":
      details = tf.config.experimental.get_device_details(device)
    name = device.name.removeprefix("/physical_device:")
    devices.append(f"{name} {details.get('device_name', '')}".strip())
  ones = tf.ones([8, 8])
  product = tf.linalg.matmul(ones, ones)
  if float(product[0, 0]) != 8.0:
    raise errors.InputError(f"a product of ones is {product[0, 0]}, not 8.0")
  used = product.device.rpartition("device:")[2]
  cores = os.cpu_count()
  detail = f"{', '.join(devices)}; {cores} CPU cores; used: {used}"
  return detail, {"devices": devices, "used": used, "cpu_count": cores}


def check_cache() -> tuple[str, dict]:
  """Check that downloads can be written, and how much space they have."""
  from delf.inference import zoo

  folder = zoo.cache_folder()
  # A missing folder is not made for a check.
  existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  with tempfile.TemporaryFile(dir=existing):
    pass
  free = shutil.disk_usage(existing).free
  facts = {"cache": str(folder), "free_bytes": free}
  return f"{folder}, {free / 1e9:.1f} GB free", facts


def check_model() -> tuple[str, dict]:
  """Find the embedded model, its size and its digest."""
  from delf.extraction import extract
  from delf.inference import zoo

  folder = zoo.resolve(zoo.EMBEDDED)
  digest = extract.fingerprint(folder)
  size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  detail = f"{folder}, {size / 1e6:.1f} MB, SHA-256 {digest[:16]}..."
  return detail, {"model": str(folder), "bytes": size, "sha256": digest}


def check_feature_file() -> tuple[str, dict]:
  """Check that features come back from a file as they were written."""
  import numpy as np

  from delf.python import feature_io

  random = np.random.default_rng(0).random
  arrays = {
    "locations": random((9, 2), np.float32),
    "scales": random(9, np.float32),
    "descriptors": random((9, 40), np.float32),
    "attention": random(9, np.float32),
  }
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "sample.delf")
    feature_io.WriteToFile(path, *arrays.values())
    size = os.path.getsize(path)
    read = feature_io.ReadFromFile(path)
  for (name, array), same in zip(arrays.items(), read, strict=False):
    if not np.array_equal(array, same):
      raise errors.InputError(f"{name} read differ from those written")
  return f"{size} bytes written and read back", {"bytes": size}


def check_matching() -> tuple[str, dict]:
  """Compare the scores of sample photos that match and that do not."""
  model = delf.load(max_size=_PHOTO_SIDE, local_only=True)
  with tempfile.TemporaryDirectory() as folder:
    left, right, other = model.extract(list(delf.sample_photos(folder)))
  same, different = delf.match(left, right), delf.match(left, other)
  detail = (
    f"{same.score} inliers of two photos of one scene, {different.score} of "
    "two scenes"
  )
  if not same.is_match or same.score < _CONTRAST * different.score:
    raise errors.InputError(
      f"{detail}; the first should be {same.min_inliers} or more, and"
      f" {_CONTRAST} times the second"
    )
  return detail, {"same": same.score, "different": different.score}


# Each returns a line and facts, or raises an error.
CHECKS = {
  "versions": check_versions,
  "devices": check_devices,
  "downloads": check_cache,
  "embedded model": check_model,
  "feature files": check_feature_file,
  "matching": check_matching,
}
