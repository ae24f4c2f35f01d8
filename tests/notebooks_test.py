"""Each notebook runs from top to bottom, as a reader would run it."""

import nbclient
import nbformat
import pytest

from tests.stand_ins import checkout

_NOTEBOOKS = sorted((checkout.ROOT / "notebooks").glob("*.ipynb"))
_SEARCH = checkout.ROOT / "notebooks" / "search_your_photos.ipynb"


def _printed(cell):
  return "".join(
    output.get("text", "") for output in cell.outputs if "name" in output
  )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns a function: path of a notebook -> (it with outputs, its folder)."""
  done = {}

  def run_once(path):
    if path not in done:
      notebook = nbformat.read(path, as_version=4)
      folder = tmp_path_factory.mktemp(path.stem)
      with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(checkout.ROOT))
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        # No configuration of whoever runs the tests.
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        nbclient.NotebookClient(
          notebook,
          timeout=600,
          kernel_name="python3",
          resources={"metadata": {"path": str(folder)}},
        ).execute()
      done[path] = notebook, folder
    return done[path]

  return run_once


@pytest.mark.slow
def test_there_are_notebooks():
  assert _SEARCH in _NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  for cell in notebook.cells:
    assert not cell.get("outputs")
    assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, run):
  notebook, _ = run(path)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))


@pytest.mark.slow
def test_the_search_finds_what_is_there(run):
  notebook, folder = run(_SEARCH)
  cells = {cell.id: cell for cell in notebook.cells}
  assert "7 done, 0 were there, 0 failed" in _printed(cells["extract"])
  lines = _printed(cells["verify"]).splitlines()
  best = {
    lines[start]: lines[start + 1].split()
    for start in range(len(lines))
    if not lines[start].startswith(" ")
  }
  assert best["coffee_cropped"][1].startswith("coffee")
  assert best["motorcycle_right"][1].startswith("motorcycle_left")
  assert all("no" not in words for words in best.values())
  assert "image/jpeg" in cells["picture"].outputs[-1]["data"]
  page = (folder / "search_your_photos" / "results.html").read_text()
  assert page.count('<section class="query"') == 2
