"""The page of results works in a browser, where there is one."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from delf.pictures import results_page

_NAMES = (
  "chromium",
  "chromium-browser",
  "google-chrome",
  "google-chrome-stable",
)
_BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(
  _BROWSER is None, reason="needs Chromium or Chrome"
)
_HOSTILE = (
  "<img src=x onerror=\"document.documentElement.dataset.hacked='yes'\">"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
  folder = tmp_path_factory.mktemp("page")
  lines = np.random.default_rng(0).uniform(0, 90, (30, 4))
  queries = []
  for number in range(30):
    path = folder / f"{number}.jpg"
    Image.new("RGB", (120, 90), (8 * number, 90, 90)).save(path)
    results = tuple(
      results_page.Result(_HOSTILE, path, rank, 30, results_page.FALSE, lines)
      for rank in range(20)
    )
    queries.append(results_page.Query(f"query {number}", path, results))
  results_page.write(folder / "page.html", "Title", queries)
  return folder / "page.html"


def _opened(page, fragment, folder):
  """Returns the page's HTML after its script has run."""
  command = [
    _BROWSER, "--headless=new", "--disable-gpu", "--no-first-run",
    "--virtual-time-budget=4000", f"--user-data-dir={folder}",
    "--window-size=1280,900",
  ]  # fmt: skip
  if hasattr(os, "geteuid") and os.geteuid() == 0:
    command.append("--no-sandbox")
  result = subprocess.run(
    [*command, "--dump-dom", page.as_uri() + fragment],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert "<html" in result.stdout, result.stderr
  return result.stdout


def test_the_script_runs_and_shows_what_is_near(page, tmp_path):
  found = _opened(page, "", tmp_path)
  assert re.search(r'data-ready="\d+"', found)
  assert "data-hacked" not in found
  assert '<p id="count">30 queries</p>' in found
  shown = len(re.findall(r'<img [^>]*src="data:image/jpeg', found))
  assert 21 <= shown < 30 * 21
  # What is gone to comes below the head, however high it is.
  assert re.search(r'<html [^>]*style="--head: [1-9]\d+px', found)


def test_a_link_to_a_match_opens_its_picture(page, tmp_path):
  found = _opened(page, "#q12r3", tmp_path)
  dialog = found[found.index("<dialog") :]
  assert re.match(r"<dialog [^>]*open", dialog)
  assert '<bdi id="match-query">query 11</bdi>' in dialog
  assert '<span id="match-rank">and 3.</span>' in dialog
  assert "✗ false · 30 inliers · score 2 · 30 lines drawn" in dialog
  assert dialog.count('<line x1="') == 60
  assert dialog.count("<image ") == 2
  assert "data-hacked" not in found
