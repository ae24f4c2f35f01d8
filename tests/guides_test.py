"""The guides' commands and examples work as they are written.

All `bash` and `python` blocks of a guide run one after the other, in one shell
that starts at the root of a copy of the checkout, as a reader would paste them.
Each command is a process of its own, in which TensorFlow has been loaded.
"""

import importlib
import json
import operator
import os
import re
import shlex
import subprocess
import sys

import pytest
from absl import flags

import delf
from tests.stand_ins import checkout, warm_python

_GUIDES = [
  "README.md",
  "INSTALL_INSTRUCTIONS.md",
  "EXTRACTION_MATCHING.md",
  "DETECTION.md",
  "SEARCH.md",
  "TRAINING.md",
  "delf/python/delg/DELG_INSTRUCTIONS.md",
  "delf/python/detect_to_retrieve/DETECT_TO_RETRIEVE_INSTRUCTIONS.md",
  "delf/python/datasets/google_landmarks_dataset/README.md",
  "docs/EXPORT.md",
  "delf/python/training/README.md",
  "delf/python/training/global_features/README.md",
  "docs/GROUND_TRUTH.md",
]
# Pages without commands; their links are checked too.
_PAGES = [
  "CONTRIBUTING.md",
  "benchmarks/README.md",
  "docs/ARCHITECTURE.md",
  "docs/DEPENDENCIES.md",
  "docs/EMBEDDED_MODEL.md",
  "docs/GLOSSARY.md",
  "docs/INVERTED_INDEX.md",
]
# Its examples run without TensorFlow.
_COLD = "docs/EXPORT.md"
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)
# What a test must not do -> commands that do it. What follows a download in the
# same block needs it, and is left out too.
_INSTALLS = re.compile(
  r"\bpip3? |^make|^source |-m venv |^apt|install_delf|^\.ci/"
)
_DOWNLOADS = re.compile(
  r"^git clone|models download|^delf download|download_dataset|^curl |^wget "
)
# A script of this library with its flags, wherever it is shown.
_SCRIPT = re.compile(r"^python3? (\S+\.py)((?: .*)?)$", re.M)


def _plan(text):
  """Returns [(command, why it is left out or None)] of a bash block.

  Args:
    text: The block; lines that end in a backslash are joined.
  """
  lines = text.replace("\\\n", " ").splitlines()
  plan, reason = [], None
  for line in lines:
    command = line.strip().removeprefix("$ ")
    if not command or command.startswith("#"):
      continue
    if _DOWNLOADS.search(command):
      reason = "downloads, or needs what is downloaded"
    installs = "installs" if _INSTALLS.search(command) else None
    plan.append((command, reason or installs))
  return plan


def _blocks(guide):
  path = checkout.ROOT / guide
  return _BLOCK.findall(path.read_text()) if path.exists() else []


def _left_out():
  return [
    pytest.param(reason, id=f"{guide}: {' '.join(command.split())}")
    for guide in _GUIDES
    for language, text in _blocks(guide)
    for command, reason in (_plan(text) if language == "bash" else [])
    if reason
  ]


def _script(guide, folder):
  """Returns a guide as one bash script; python blocks lie in `folder`."""
  lines = ["set -euo pipefail"]
  for number, (language, text) in enumerate(_blocks(guide)):
    if language == "python":
      path = folder / f"block_{number}.py"
      path.write_text(text)
      lines.append(f"python3 {path}")
    else:
      lines += [command for command, reason in _plan(text) if not reason]
  return "\n".join(lines)


def _environment(root, folder, python):
  """Returns variables with which `delf` and `python3` are those under test.

  Args:
    root: Folder of the copy of the checkout.
    folder: Where the commands are written.
    python: Words of a command that does as `python3`.
  """
  binaries = folder / "bin"
  binaries.mkdir()
  starts = {"python": "", "python3": "", "delf": "-m delf "}
  for name, start in starts.items():
    binary = binaries / name
    # Not a link: an environment is found by the path of its Python.
    binary.write_text(f'#!/bin/bash\nexec {shlex.join(python)} {start}"$@"\n')
    binary.chmod(0o755)
  path = os.pathsep.join([str(binaries), os.environ["PATH"]])
  own = {"PYTHONPATH": str(root), "DELF_CACHE": str(folder / "cache")}
  return {**os.environ, "PATH": path, **own}


def _skip_if_not_here(guide):
  """Skips a guide whose packages, of extras, or whose model are not there."""
  detector = checkout.ROOT / "delf/embedded/delf-boxes"
  if guide == "DETECTION.md" and not detector.exists():
    pytest.skip("the embedded detector is not there")
  if guide != _COLD:
    return
  for package in ("tf2onnx", "onnxruntime", "ai_edge_litert"):
    pytest.importorskip(package, reason=f"{package} is not installed")
  model = checkout.ROOT / "delf/embedded/delf-compact/saved_model.pb"
  if b"network_local" not in model.read_bytes():
    pytest.skip("the embedded model is of an exporter without `network`")


@pytest.fixture(scope="module")
def warm():
  with warm_python.serve() as python:
    yield python


@pytest.mark.slow
@pytest.mark.parametrize("guide", _GUIDES)
def test_guide_works_as_written(guide, tmp_path, warm):
  weights = "delf/embedded/delf-compact/weights.npz"
  if guide == "TRAINING.md" and not (checkout.ROOT / weights).exists():
    pytest.skip("the embedded model comes without training weights")
  _skip_if_not_here(guide)
  root = tmp_path / "delf"
  checkout.copy(root)
  script = _script(guide, tmp_path)
  python = [sys.executable] if guide == _COLD else warm
  assert (root / guide).exists()
  result = subprocess.run(
    ["bash", "-c", script],
    cwd=root,
    env=_environment(root, tmp_path, python),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("reason", _left_out())
def test_command_that_is_left_out(reason):
  pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [*_GUIDES, *_PAGES])
def test_links_lead_to_files(guide):
  text = (checkout.ROOT / guide).read_text()
  for link in re.findall(r"\]\(([^)#\s]+)", text):
    if not link.startswith(("http://", "https://", "mailto:")):
      assert (checkout.ROOT / guide).parent.joinpath(link).exists(), link


def test_glossary_is_sorted_and_its_names_exist():
  text = (checkout.ROOT / "docs/GLOSSARY.md").read_text()
  terms = re.findall(r"^- \*\*(.+?)\*\*: ", text, re.M)
  assert len(terms) > 30
  assert terms == sorted(terms, key=str.lower)
  for name in re.findall(r"`delf\.([\w.]+)", text):
    assert operator.attrgetter(name)(delf), name
  options = set(re.findall(r"`--([\w-]+)", text))
  parsers = (checkout.ROOT / "delf/cli").glob("*.py")
  known = "".join(path.read_text() for path in parsers)
  assert {option for option in options if f'"--{option}"' not in known} == set()


def _scripts(guide):
  """Yields (path of a script below the root, flags) as a guide shows them."""
  text = (checkout.ROOT / guide).read_text()
  folder = re.search(r"^cd (\S+)$", text, re.M)
  folder = checkout.ROOT / (folder[1] if folder else "")
  for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```$", text, re.M | re.S):
    for path, words in _SCRIPT.findall(block.replace("\\\n", " ")):
      script = (folder / path).resolve().relative_to(checkout.ROOT)
      yield script.as_posix(), re.findall(r"--(\w+)", words)


@pytest.mark.slow
@pytest.mark.parametrize("guide", _GUIDES)
def test_scripts_have_the_flags_that_are_shown(guide):
  known = json.loads(
    (checkout.ROOT / "tests" / "conformance" / "flags.json").read_text()
  )
  for script, names in _scripts(guide):
    assert (checkout.ROOT / script).exists()
    # Those that users of the original know, and what has come since.
    new = _defined(script) if set(names) - set(known[script]) else set()
    assert set(names) <= set(known[script]) | new, script


def _defined(script):
  """Returns the flags that a script defines, with "no" before booleans too."""
  name = script.removesuffix(".py").replace("/", ".")
  before = set(flags.FLAGS)
  importlib.import_module(name).define_flags()
  new = set(flags.FLAGS) - before
  booleans = {f"no{flag}" for flag in new if flags.FLAGS[flag].boolean}
  for flag in new:
    delattr(flags.FLAGS, flag)
  return new | booleans


@pytest.mark.slow
def test_commands_are_joined_and_told_apart():
  block = "# Here:\n\n$ cd a\npython b.py \\\n  --c=1\npip install .\ncd d\n"
  plan = [(" ".join(command.split()), why) for command, why in _plan(block)]
  assert plan == [
    ("cd a", None),
    ("python b.py --c=1", None),
    ("pip install .", "installs"),
    ("cd d", None),
  ]


@pytest.mark.slow
def test_what_follows_a_download_is_left_out():
  plan = _plan("ls\ndelf models download a\ndelf info a\n")
  assert [bool(reason) for _, reason in plan] == [False, True, True]
