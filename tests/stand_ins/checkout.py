"""A copy of the files that belong to the project, or will with the next commit.

What git does not ignore counts, so that a change can be tested before it is
committed; continuous integration runs in a fresh clone.
"""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def files():
  """Returns the relative paths of all files that git does not ignore."""
  if shutil.which("git") is None or not (ROOT / ".git").exists():
    pytest.skip("needs a git checkout")
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  names = sorted(set(listed.stdout.split("\0")) - {""})
  return [name for name in names if (ROOT / name).is_file()]


def copy(folder):
  """Copies these files into a folder and returns it."""
  for name in files():
    target = pathlib.Path(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(ROOT / name, target)
  return pathlib.Path(folder)
