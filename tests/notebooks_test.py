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


def _photos(folder):
  """Returns {path: bytes} of all files in the folders of photos."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for name in ("photos", "queries")
    for path in (folder / "search_your_photos" / name).rglob("*")
  }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Returns a function that runs a notebook once.

  It gives the notebook with outputs, its folder, and the content of the folders
  of photos after each cell, by its id.
  """
  done = {}

  def run_once(path):
    if path not in done:
      notebook = nbformat.read(path, as_version=4)
      folder, photos = tmp_path_factory.mktemp(path.stem), {}

      def note(cell, **_):
        photos[cell.id] = _photos(folder)

      with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(checkout.ROOT))
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        # No configuration of whoever runs the tests.
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        nbclient.NotebookClient(
          notebook,
          timeout=600,
          kernel_name="python3",
          on_cell_executed=note,
          resources={"metadata": {"path": str(folder)}},
        ).execute()
      done[path] = notebook, folder, photos
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
  notebook, _, _ = run(path)
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  counts = [cell.execution_count for cell in cells]
  assert counts == list(range(1, len(cells) + 1))


@pytest.mark.slow
def test_the_search_finds_the_same_things(run):
  notebook, folder, _ = run(_SEARCH)
  cells = {cell.id: cell for cell in notebook.cells}
  assert "7 photos, 0 failed" in _printed(cells["index"])
  lines = _printed(cells["verify"]).splitlines()
  best = {
    lines[start]: lines[start + 1].split()
    for start in range(len(lines))
    if not lines[start].startswith(" ")
  }
  assert best["coffee_cropped"][0].startswith("coffee")
  assert best["motorcycle_right"][0].startswith("motorcycle_left")
  assert all("no" not in words for words in best.values())
  assert "image/jpeg" in cells["picture"].outputs[-1]["data"]
  page = (folder / "search_your_photos" / "results.html").read_text()
  assert page.count('<section class="query"') == 2


@pytest.mark.slow
def test_the_folders_of_photos_stay_as_they_are(run):
  _, folder, photos = run(_SEARCH)
  before = photos["samples"]
  assert len(before) == 9
  assert all(after == before for after in list(photos.values())[1:])
  # All files are below the one work folder; IPython's own are the test's.
  names = {path.name for path in folder.iterdir()} - {"ipython"}
  assert names == {"search_your_photos"}


@pytest.mark.slow
def test_the_notebook_uses_public_names_only():
  notebook = nbformat.read(_SEARCH, as_version=4)
  code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
  assert "import delf\n" in code
  assert "from delf" not in code
  assert "import delf." not in code
