import json

import numpy as np
import pytest

import delf
from delf.base import errors
from delf.evaluation import ground_truth, metrics, report_card
from delf.pictures import results_page

_MADE = {
  "global": {
    "delf_version": "1",
    "model_path": "models/tiny",
    "model": "ab" * 32,
    "settings": ["image_scales: 1", "max_image_size: 1024"],
    "files": {},
    "apply_rotation": False,
  }
}


def _evaluation(dataset="roxford5k", distractors=0, depth=10, graded=True):
  none = np.zeros([0], np.int64)
  truth = ground_truth.GroundTruth(
    dataset=dataset,
    index_names=tuple(f"i{i}" for i in range(12)),
    query_names=("q0", "q1"),
    easy=(np.array([0]), none),
    hard=(np.array([5]), np.array([1])),
    junk=(none, none),
    boxes=(None, None),
    graded=graded,
    distractors=distractors,
  )
  ids = np.array([[0, 5, *range(6, 12), 2, 3], [1, *range(3, 12)]])
  return metrics.evaluate(ids[:, :depth], truth)


@pytest.fixture
def whole(monkeypatch):
  """Takes the small data sets of these tests for published ones."""
  sizes = {"roxford5k": (2, 12), "rparis6k": (2, 4)}
  monkeypatch.setattr(report_card, "WHOLE", sizes)


def _card(*arguments, **options):
  return report_card.make(
    _evaluation(*arguments, **options), "global", _MADE, _MADE, {"top": 10}
  )


def test_the_card_says_what_was_measured_and_how():
  said = report_card.text(_card())
  for words in (
    "roxford5k: 2 queries, 12 images\n",
    "method: global",
    "easy             1  100.00  100.00",
    "medium           2  100.00",
    "Only the first 10 images",
    "models/tiny",
    "ab" * 32,
    "image_scales=1 max_image_size=1024",
    "top: 10",
    f"delf {delf.__version__}",
    "numpy " + np.__version__,
  ):
    assert words in said


@pytest.mark.usefixtures("whole")
def test_what_is_published_stands_beside_it():
  lines = report_card.text(_card()).splitlines()
  (head,) = [i for i, line in enumerate(lines) if line.startswith("published")]
  assert lines[head + 1].split() == ["this", "result", "100.00", "100.00"]
  assert any(
    line.split() == ["R50-DELG", "global", "(GLDv1)", "[1]", "69.71", "45.11"]
    for line in lines
  )
  assert any(line.startswith("[2] DELG (Cao et al.") for line in lines)


@pytest.mark.parametrize(
  ("dataset", "distractors"), [("mini_roxford5k", 0), ("roxford5k", 5)]
)
@pytest.mark.usefixtures("whole")
def test_what_is_not_comparable_has_nothing_beside_it(dataset, distractors):
  card = _card(dataset, distractors)
  assert "published" not in report_card.text(card)
  assert report_card.document(card)["published_percent"] == []


def test_a_part_of_a_published_data_set_has_nothing_beside_it():
  card = _card("roxford5k")
  assert "published" not in report_card.text(card)
  assert report_card.document(card)["published_percent"] == []


def test_a_whole_data_set_has_the_size_that_is_known(shared_data):
  path = shared_data / "mini_roxford5k" / "gnd_roxford5k.json"
  truth = ground_truth.read(path)
  size = len(truth.query_names), len(truth.index_names)
  assert report_card.WHOLE["roxford5k"] == size


def test_published_rows_are_those_of_the_collection():
  whole = report_card.WHOLE

  def find(name, *distractors):
    rows = report_card.published(name, whole[name], *distractors)
    method = "R101-DELG global + verification (GLDv2-clean)"
    (row,) = [row for row in rows if row.method == method]
    return row.medium, row.hard

  assert find("roxford5k") == (81.2, 64.0)
  assert find("rparis6k") == (87.2, 72.8)
  assert find("roxford5k", 1_001_001) == (69.1, 47.5)
  assert find("rparis6k", 1_001_001) == (71.5, 48.7)
  assert len(report_card.published("roxford5k", (70, 4993))) == 15
  assert len(report_card.published("rparis6k", (70, 6322))) == 11


def test_ungraded_ground_truth_has_a_card():
  card = _card("mine", graded=False)
  assert "all              1  100.00" in report_card.text(card)


@pytest.mark.usefixtures("whole")
def test_the_card_is_written_as_json(tmp_path):
  card = _card()
  report_card.write(card, tmp_path / "out" / "card.json")
  found = json.loads((tmp_path / "out" / "card.json").read_text())
  assert found == json.loads(json.dumps(report_card.document(card)))
  assert found["protocols"]["easy"]["AP"] == {"q0": 1.0, "q1": None}
  assert found["protocols"]["easy"]["left_out"] == ["q1"]
  assert found["made_with"]["global"]["model"] == "ab" * 32
  assert found["published_percent"][0]["source"].startswith("guides")
  assert found["versions"]["delf"] == delf.__version__


def test_features_that_were_made_otherwise_are_refused():
  other = {"global": _MADE["global"] | {"model": "cd" * 32}}
  with pytest.raises(errors.InputError, match="another model"):
    report_card.make(_evaluation(), "global", _MADE, other)
  card = report_card.make(_evaluation(), "global", None, _MADE)
  assert card.made_with == _MADE


def _small_card(dataset):
  none = np.zeros([0], np.int64)
  truth = ground_truth.GroundTruth(
    dataset=dataset,
    index_names=("a", "b", "c", "d"),
    query_names=("q0", "q1"),
    easy=(none, none),
    hard=(np.array([1]), none),
    junk=(none, none),
    boxes=(None, None),
  )
  ids = np.array([[0, 1, 2, 3]] * 2)
  found = metrics.evaluate(ids, truth)
  return report_card.make(found, "global", None, None)


def test_a_page_has_the_numbers_of_the_card():
  card = _small_card("mine")
  page = report_card.page_section(card)
  (protocols,) = page.tables
  assert protocols.title == "mine, global (%)"
  assert protocols.columns == ("protocol", "queries", "mAP", "mP@1", "mR@1")
  assert protocols.rows[2] == ("hard", 1, 25, 0, 0)
  assert np.isnan(protocols.rows[0][2])
  # A protocol without positives has no curve.
  assert [curve.name for curve in page.curves] == ["medium", "hard"]
  assert page.curves[0].precisions.max() == 0.5
  assert page.report == report_card.text(card)


@pytest.mark.usefixtures("whole")
def test_what_is_published_is_on_the_page():
  table = report_card.page_section(_small_card("rparis6k")).tables[1]
  assert table.rows[0] == ("this result", 25, 25)
  assert ("R50-DELG global (GLDv1)", 81.6, 63.4) in table.rows
  assert len(table.rows) == 12


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("dataset", ["mine", "rparis6k"])
def test_a_page_is_written_with_it(dataset, tmp_path):
  page = report_card.page_section(_small_card(dataset))
  path = tmp_path / "page.html"
  results_page.write(path, "Mine", [], evaluation=page)
  assert "global (%)" in path.read_text()
