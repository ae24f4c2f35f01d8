"""The guides' commands and examples work as they are written.

All `bash` and `python` blocks of a guide run one after the other, in one shell
that starts at the root of a copy of the checkout, as a reader would paste them.
"""

import os
import pathlib
import re
import subprocess
import sys

import checkout
import pytest

_GUIDES = ["README.md", "INSTALL_INSTRUCTIONS.md", "EXTRACTION_MATCHING.md"]
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.M | re.S)
# What a command does that a test must not -> how to tell.
_LEFT_OUT = {
  "installs": r"\bpip3? |^make|^source |-m venv |^apt|install_delf|^\.ci/",
  "downloads": r"^git clone|models download|^curl |^wget ",
  "needs what was installed or downloaded": r"^cd delf$|parameters/",
}


def _commands(text):
  """Returns the commands of a bash block, continued lines joined."""
  lines = text.replace("\\\n", " ").splitlines()
  return [line.strip() for line in lines if line.strip(" \t#")]


def _reason(command):
  """Returns why a command is left out, or None."""
  reasons = (r for r, how in _LEFT_OUT.items() if re.search(how, command))
  return next(reasons, None)


def _blocks(guide):
  path = checkout.ROOT / guide
  return _BLOCK.findall(path.read_text()) if path.exists() else []


def _left_out():
  for guide in _GUIDES:
    for language, text in _blocks(guide):
      for command in _commands(text) if language == "bash" else []:
        if _reason(command):
          yield pytest.param(_reason(command), id=f"{guide}: {command}")


def _script(guide, folder):
  """Returns a guide as one bash script; python blocks lie in `folder`."""
  lines = ["set -euo pipefail"]
  for number, (language, text) in enumerate(_blocks(guide)):
    if language == "python":
      path = folder / f"block_{number}.py"
      path.write_text(text)
      lines.append(f"python3 {path}")
    else:
      commands = _commands(text)
      lines += [c for c in commands if not _reason(c) and c[0] != "#"]
  return "\n".join(line.removeprefix("$ ") for line in lines)


def _environment(root, folder):
  """Returns variables with which `delf` and `python3` are those under test."""
  binaries = folder / "bin"
  binaries.mkdir()
  for name in ("python", "python3"):
    (binaries / name).symlink_to(sys.executable)
  entry = binaries / "delf"
  entry.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m delf "$@"\n')
  entry.chmod(0o755)
  path = os.pathsep.join([str(binaries), os.environ["PATH"]])
  return {**os.environ, "PATH": path, "PYTHONPATH": str(root)}


@pytest.mark.parametrize("guide", _GUIDES)
def test_guide_works_as_written(guide, tmp_path):
  root = tmp_path / "delf"
  checkout.copy(root)
  script = _script(guide, tmp_path)
  assert (root / guide).exists()
  result = subprocess.run(
    ["bash", "-c", script],
    cwd=root,
    env=_environment(root, tmp_path),
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("reason", list(_left_out()))
def test_command_that_is_left_out(reason):
  pytest.skip(f"it {reason}")


@pytest.mark.parametrize("guide", _GUIDES)
def test_links_lead_to_files(guide):
  text = (checkout.ROOT / guide).read_text()
  for link in re.findall(r"\]\(([^)#\s]+)", text):
    if not link.startswith(("http://", "https://", "mailto:")):
      assert pathlib.Path(checkout.ROOT, link).exists(), link


def test_commands_are_joined_and_told_apart():
  block = "# From here:\ncd there\npython3 a.py \\\n  --flag=1\npip install .\n"
  commands = _commands(block)
  assert [" ".join(c.split()) for c in commands] == [
    "# From here:",
    "cd there",
    "python3 a.py --flag=1",
    "pip install .",
  ]
  assert [_reason(c) for c in commands] == [None, None, None, "installs"]
