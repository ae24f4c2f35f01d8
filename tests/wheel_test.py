"""The installed wheel works: built from a clean checkout, in its own place.

By default the wheel is installed into an empty environment that takes its
dependencies, and nothing else, from the one that runs the tests. `make
wheel-test` also installs it with all that it needs, newest releases, into an
empty environment of each Python that it finds.
"""

import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

from tests.stand_ins import checkout

# What the checkout holds and the wheel does not.
_NOT_PACKAGED = re.compile(r"_test\.py$")
_PYTHONS = os.environ.get("DELF_WHEEL_TEST_PYTHONS", "").split()
_MOST_BYTES = 17_000_000  # 16 MB of models; the rest is small.

_IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import delf
assert pathlib.Path(delf.__file__).is_relative_to(sys.prefix), delf.__file__
names = [m.name for m in pkgutil.walk_packages(delf.__path__, "delf.")]
names.remove("delf.__main__")
for name in names:
  importlib.import_module(name)
  assert not name.endswith("_test"), name
for name in ("tf_slim", "tensorflow_probability"):
  assert name not in sys.modules, name
print(len(names), "modules")
"""

_RARELY_USED = """
import tensorflow_probability as tfp, tf_slim
assert float(tfp.stats.percentile([1.0, 2.0, 9.0], 50.0)) == 2.0
assert tf_slim.conv2d
"""

_VERSIONS = """
import importlib.metadata as metadata, re, sys
names = [re.match(r"[\\w-]+", r)[0] for r in metadata.requires("delf")
         if "extra ==" not in r]
print(sys.version.split()[0], *(f"{n}={metadata.version(n)}" for n in names))
"""


def _run(command, what="", **options):
  """Runs a command and returns its output; its errors fail the test."""
  result = subprocess.run(
    [str(word) for word in command],
    capture_output=True,
    text=True,
    **options,
  )
  assert result.returncode == 0, f"{what} {result.stdout}{result.stderr}"
  return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Returns (checkout's copy, sdist, wheel made from that sdist)."""
  source = checkout.copy(tmp_path_factory.mktemp("checkout"))
  out = tmp_path_factory.mktemp("dist")
  build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out]
  _run([*build, source], cwd=source)
  (sdist,) = out.glob("*.tar.gz")
  (wheel,) = out.glob("*.whl")
  return source, sdist, wheel


def _packaged(source):
  paths = (path for path in (source / "delf").rglob("*") if path.is_file())
  names = {path.relative_to(source).as_posix() for path in paths}
  return {name for name in names if not _NOT_PACKAGED.search(name)}


@pytest.mark.slow
def test_wheel_holds_the_whole_package_and_nothing_else(built):
  source, _, wheel = built
  held = set(zipfile.ZipFile(wheel).namelist())
  package = {name for name in held if ".dist-info/" not in name}
  assert package == _packaged(source)
  kinds = {pathlib.PurePath(name).suffix for name in package}
  assert {".py", ".proto", ".pbtxt", ".sh"} <= kinds
  assert any(name.endswith("licenses/LICENSE") for name in held)


@pytest.mark.slow
def test_wheel_holds_the_embedded_model_and_its_card(built):
  held = zipfile.ZipFile(built[2]).namelist()
  embedded = [name for name in held if name.startswith("delf/embedded/")]
  names = {pathlib.PurePath(name).name for name in embedded}
  assert "saved_model.pb" in names
  assert "variables.index" in names
  assert any(name.endswith(".md") for name in names)
  assert built[2].stat().st_size <= _MOST_BYTES


@pytest.mark.slow
def test_wheel_is_pure_python(built):
  assert built[2].name.endswith("-py3-none-any.whl")


@pytest.mark.slow
def test_sdist_holds_the_whole_project(built):
  source, sdist, _ = built
  with tarfile.open(sdist) as archive:
    held = {name.partition("/")[2] for name in archive.getnames()}
  project = {
    path.relative_to(source).as_posix()
    for path in source.rglob("*")
    if path.is_file()
  }
  assert project <= held


def _binary(environment, name):
  folder = "Scripts" if os.name == "nt" else "bin"
  return pathlib.Path(environment, folder, name)


def _clean_environment(folder):
  """Returns environment variables that lead to no other `delf`."""
  dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
  kept = {k: v for k, v in os.environ.items() if k not in dropped}
  return {**kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


def _check_installed(environment, folder):
  """Imports all modules of an installed wheel and matches two photos."""
  folder.mkdir()
  options = {"cwd": folder, "env": _clean_environment(folder)}
  python = _binary(environment, "python")
  print(_run([python, "-c", _IMPORT_ALL], **options))
  out = folder / "demo"
  print(_run([_binary(environment, "delf"), "demo", "--out", out], **options))
  pictures = [*out.glob("*.png"), *out.glob("*.jpg")]
  assert pictures, sorted(out.iterdir())
  assert all(picture.stat().st_size > 10_000 for picture in pictures)


@pytest.mark.slow
def test_installed_wheel_imports_and_matches(built, tmp_path):
  environment = tmp_path / "environment"
  venv.create(environment, with_pip=False)
  python = _binary(environment, "python")
  pip = [sys.executable, "-m", "pip", "--python", python]
  _run([*pip, "install", "--quiet", "--no-deps", "--no-index", built[2]])
  site = sysconfig.get_path(
    "purelib", vars={"base": str(environment), "platbase": str(environment)}
  )
  # A plain path: .pth files in it, as that of an editable install, do not
  # count, and it comes after the environment's own packages.
  running = sysconfig.get_path("purelib")
  pathlib.Path(site, "dependencies.pth").write_text(running + "\n")
  _check_installed(environment, tmp_path / "work")


@pytest.mark.slow
@pytest.mark.skipif(
  not _PYTHONS,
  reason="takes minutes: make wheel-test",
)
@pytest.mark.parametrize("name", _PYTHONS or ["python3"])
def test_wheel_installs_with_all_it_needs(name, built, tmp_path):
  environment = tmp_path / "environment"
  _run([name, "-m", "venv", environment], what=f"{name} does not run")
  python = _binary(environment, "python")
  _run([python, "-m", "pip", "install", "--quiet", built[2]])
  print(_run([python, "-m", "pip", "check"]))
  print(_run([python, "-c", _VERSIONS]))
  _run([python, "-c", _RARELY_USED])
  _check_installed(environment, tmp_path / "work")
