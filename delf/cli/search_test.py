import json

import numpy as np
import pytest

from delf.cli import main, search
from delf.indexes import refinement
from delf.python import datum_io


def _write(folder, names):
  folder.mkdir(exist_ok=True)
  for name, vector in names.items():
    vector = np.array(vector, np.float32)
    datum_io.WriteToFile(vector, str(folder / f"{name}.delg_global"))


@pytest.fixture
def index(tmp_path, capsys):
  _write(tmp_path / "f", {"a": (1, 0), "b": (0.6, 0.8), "c": (0, 1)})
  _write(tmp_path / "q", {"q": (0.8, 0.6)})
  out = tmp_path / "my.index"
  assert main.main(["index", str(tmp_path / "f"), "--out", str(out)]) == 0
  assert (
    "3 images (3 added, 0 already there, 0 failed)" in capsys.readouterr()[0]
  )
  return out


def _run(capsys, *argv):
  assert main.main(list(map(str, argv))) == 0
  return capsys.readouterr()[0]


def test_results_are_printed_best_first(index, tmp_path, capsys):
  out = _run(capsys, "search", index, tmp_path / "q", "--top", 2)
  assert out.splitlines() == ["q:", "    1  0.9600  b", "    2  0.8000  a"]


def test_results_as_json(index, tmp_path, capsys):
  out = _run(capsys, "search", index, tmp_path / "q", "--top", 1, "--json")
  document = json.loads(out)
  assert document["method"] == "global"
  (query,) = document["queries"]
  (hit,) = query["results"]
  assert (query["query"], hit["name"]) == ("q", "b")
  assert hit["score"] == pytest.approx(0.96)
  assert hit["inliers"] is None


def test_a_page_is_written(index, tmp_path, capsys):
  page = tmp_path / "page.html"
  out = _run(capsys, "search", index, tmp_path / "q", "--html", page)
  assert f"page: {page}" in out
  assert "<html" in page.read_text()


def test_an_image_is_removed(index, tmp_path, capsys):
  out = _run(capsys, "index", "--out", index, "--remove", "b")
  assert out.endswith(": 2 images\n")
  out = _run(capsys, "search", index, tmp_path / "q")
  assert [line.split()[-1] for line in out.splitlines()[1:]] == ["a", "c"]


def test_an_index_is_merged(index, tmp_path, capsys):
  _write(tmp_path / "g", {"d": (0.8, 0.6)})
  other = tmp_path / "other.index"
  _run(capsys, "index", tmp_path / "g", "--out", other)
  out = _run(capsys, "index", "--out", index, "--merge", other)
  assert out.endswith(": 4 images\n")
  out = _run(capsys, "search", index, tmp_path / "q", "--top", 1)
  assert out.splitlines()[1].split()[-1] == "d"


def test_metrics_with_ground_truth(index, tmp_path, capsys):
  truth = tmp_path / "truth.csv"
  truth.write_text("query,image,label\nq,a,positive\nq,b,junk\n")
  words = ("eval", truth, "--index", index, "--queries", tmp_path / "q")
  out = _run(capsys, *words, "--out", tmp_path / "out")
  assert "100.00" in out
  assert (tmp_path / "out" / "metrics.txt").exists()
  out = _run(capsys, *words, "--out", tmp_path / "out", "--json")
  assert json.loads(out)["protocols"]["all"]["mAP"] == 1.0


def test_names_of_queries_may_have_their_ending(index, tmp_path, capsys):
  truth = tmp_path / "truth.csv"
  truth.write_text("query,image,label\nold/q.jpg,a.jpg,positive\n")
  words = ("eval", truth, "--index", index, "--queries", tmp_path / "q")
  out = _run(capsys, *words, "--out", tmp_path / "out", "--json")
  assert json.loads(out)["protocols"]["all"]["mAP"] == 0.25


def test_refinements_are_those_of_rankings():
  assert sorted(refinement.METHODS) == list(search.REFINEMENTS)


@pytest.mark.parametrize("command", ["index", "search", "eval"])
def test_help_has_examples(command, capsys):
  with pytest.raises(SystemExit) as end:
    main.main([command, "--help"])
  assert end.value.code == 0
  assert f"  delf {command} " in capsys.readouterr()[0]
