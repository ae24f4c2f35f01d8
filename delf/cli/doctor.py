"""`delf doctor`: says whether this installation works."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import textwrap
import time

from packaging import requirements

import delf
from delf.base import errors
from delf.cli import arguments, output

_EXAMPLES = """\
examples:
  delf doctor          each check with OK or FAIL, in about ten seconds
  delf doctor --json   the same for programs, and for reports of faults

The exit status is 0 if all is well, else 1.
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  arguments.add_json(parser)


def run(args):
  """Checks and prints; returns the exit status."""
  results = []
  for result in run_checkup():
    results.append(result)
    if not args.json:
      print(_line(result), flush=True)
  failed = [result.name for result in results if not result.ok]
  if args.json:
    checks = [dataclasses.asdict(result) for result in results]
    output.print_json({"ok": not failed, "checks": checks})
  else:
    print(f"Not well: {', '.join(failed)}." if failed else "All is well.")
  return 1 if failed else 0


def _line(result):
  """Returns a result as text, with long details on lines of their own."""
  state = "OK  " if result.ok else "FAIL"
  return textwrap.fill(
    f"{state} {result.name:<14} {result.detail} ({result.seconds:.1f} s)",
    width=100,
    subsequent_indent=" " * 20,
    break_long_words=False,
    break_on_hyphens=False,
  )


# Longer side of the sample photos in the self-check, in pixels.
_CHECK_SIZE = 480

# The scene that matches has this many times the inliers of the other, at least.
# Less strict than a verdict: it is whether the computation is right, on any
# device, that is checked here.
_CONTRAST = 3


@dataclasses.dataclass(frozen=True)
class Result:
  """What a check found.

  Attributes:
    name: Words for what was checked.
    ok: Whether it is as it should be.
    detail: One line: what there is, or what is wrong.
    seconds: Wall-clock time it took.
    facts: dict of the same for programs.
  """

  name: str
  ok: bool
  detail: str
  seconds: float
  facts: dict


def run_checkup():
  """Runs all checks, each whatever became of the others.

  Yields:
    Result of each check, when it is done.
  """
  for name, check in CHECKS.items():
    start = time.perf_counter()
    try:
      detail, facts = check()
      ok = True
    except Exception as error:  # To report any fault is what a check is for.
      words = " ".join(str(error).split())
      expected = isinstance(error, (errors.InputError, OSError))
      detail = words if expected else f"{type(error).__name__}: {words}"
      ok, facts = False, {}
    yield Result(name, ok, detail, time.perf_counter() - start, facts)


def check_versions():
  """Returns the versions of delf, Python and what the package needs."""
  versions = {
    "delf": delf.__version__,
    "Python": platform.python_version(),
  }
  wrong = []
  for needed in _requirements():
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
      "the packages that delf needs (`pip install --force-reinstall delf`)",
      ", ".join(wrong),
      sys.prefix,
    )
  words = ", ".join(f"{name} {version}" for name, version in versions.items())
  return words, {"versions": versions, "platform": platform.platform()}


def check_devices():
  """Returns the devices that TensorFlow sees, having computed on the best."""
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
    raise errors.InputError("8.0 of a product of ones", str(product[0, 0]))
  used = product.device.rpartition("device:")[2]
  words = f"{', '.join(devices)}; {os.cpu_count()} CPU cores; used: {used}"
  facts = {"devices": devices, "used": used, "cpu_count": os.cpu_count()}
  return words, facts


def check_cache():
  """Returns the folder of downloads and its free space, having tried it."""
  from delf.inference import zoo

  folder = zoo.cache_folder()
  # What is not there yet is not made for a check.
  existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  with tempfile.TemporaryFile(dir=existing):
    pass
  free = shutil.disk_usage(existing).free
  words = f"{folder}, {free / 1e9:.1f} GB free"
  return words, {"cache": str(folder), "free_bytes": free}


def check_model():
  """Returns where the embedded model is, its size and its digest."""
  from delf.inference import zoo

  folder = zoo.resolve(zoo.EMBEDDED)
  size, digest = folder_digest(folder)
  words = f"{folder}, {size / 1e6:.1f} MB, SHA-256 {digest[:16]}..."
  return words, {"model": str(folder), "bytes": size, "sha256": digest}


def check_feature_file():
  """Returns that features come back from a file as they were written."""
  import numpy as np

  from delf.python import feature_io

  rng = np.random.default_rng(0)
  shapes = {"locations": (9, 2), "scales": 9, "descriptors": (9, 40)}
  arrays = {
    name: rng.random(shape, np.float32)
    for name, shape in (shapes | {"attention": 9}).items()
  }
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "sample.delf")
    feature_io.WriteToFile(path, *arrays.values())
    size = os.path.getsize(path)
    read = feature_io.ReadFromFile(path)
  order = ("locations", "scales", "descriptors", "attention")
  for name, array in zip(order, read, strict=False):
    if not np.array_equal(array, arrays[name]):
      raise errors.InputError(f"{name} as written", "others", path)
  return f"{size} bytes written and read back", {"bytes": size}


def check_matching():
  """Returns the scores of sample photos: two that match, two that do not."""
  from delf.embedded import samples
  from delf.inference import extractor, zoo
  from delf.matching import matcher
  from delf.python import utils

  config = zoo.default_config(zoo.EMBEDDED)
  config.max_image_size = _CHECK_SIZE
  config.use_global_features = False
  extract = extractor.make_extractor(config).extract
  with tempfile.TemporaryDirectory() as folder:
    paths = samples.write_photos(folder)
    left, right, other = (
      extract(utils.RgbLoader(str(path))).local for path in paths
    )
  same, different = matcher.match(left, right), matcher.match(left, other)
  words = (
    f"{same.score} inliers of two photos of one scene, {different.score} of "
    "two scenes"
  )
  if not same.is_match or same.score < _CONTRAST * different.score:
    expected = f"at least {same.min_inliers} and {_CONTRAST} times the other"
    raise errors.InputError(expected, words)
  return words, {"same": same.score, "different": different.score}


CHECKS = {
  "versions": check_versions,
  "devices": check_devices,
  "downloads": check_cache,
  "embedded model": check_model,
  "feature files": check_feature_file,
  "matching": check_matching,
}


def folder_digest(folder):
  """Returns the size in bytes and the SHA-256 of all files of a folder.

  Args:
    folder: Path of a folder.

  Returns:
    (int, str): bytes of content, and the digest of the sorted relative paths,
    each followed by the digest of the content.
  """
  folder = pathlib.Path(folder)
  size, digest = 0, hashlib.sha256()
  names = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
  for name in sorted(name.as_posix() for name in names):
    content = (folder / name).read_bytes()
    size += len(content)
    digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
  return size, digest.hexdigest()


def _requirements():
  """Returns the Requirement of each package that delf needs, extras aside."""
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    lines = importlib.metadata.requires("delf") or []
    needed = [requirements.Requirement(line) for line in lines]
    return [
      each
      for each in needed
      if each.marker is None or each.marker.evaluate({"extra": ""})
    ]
  raise errors.InputError("delf to be installed (`pip install .`)", "a folder")
