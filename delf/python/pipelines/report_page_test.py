import numpy as np
import pytest

from delf.python.datasets import ground_truth, published_results
from delf.python.pipelines import report_card, report_page
from delf.python.retrieval import evaluation


@pytest.fixture(autouse=True)
def _whole(monkeypatch):
  """Takes the small data set of these tests for a published one."""
  monkeypatch.setattr(published_results, "WHOLE", {"rparis6k": (2, 4)})


def _card(dataset):
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
  found = evaluation.evaluate(ids, truth)
  return report_card.make(found, "global", None, None)


def test_a_page_has_the_numbers_of_the_card():
  card = _card("mine")
  page = report_page.make(card)
  (protocols,) = page.tables
  assert protocols.title == "mine, global (%)"
  assert protocols.columns == ("protocol", "queries", "mAP", "mP@1", "mR@1")
  assert protocols.rows[2] == ("hard", 1, 25, 0, 0)
  assert np.isnan(protocols.rows[0][2])
  # A protocol without positives has no curve.
  assert [curve.name for curve in page.curves] == ["medium", "hard"]
  assert page.curves[0].precisions.max() == 0.5
  assert page.report == report_card.text(card)


def test_what_is_published_is_on_the_page():
  table = report_page.make(_card("rparis6k")).tables[1]
  assert table.rows[0] == ("this result", 25, 25)
  assert ("R50-DELG global (GLDv1)", 81.6, 63.4) in table.rows
  assert len(table.rows) == 12


@pytest.mark.parametrize("dataset", ["mine", "rparis6k"])
def test_a_page_is_written_with_it(dataset, tmp_path):
  from delf.python.page import results_page

  page = report_page.make(_card(dataset))
  path = tmp_path / "page.html"
  results_page.write(path, "Mine", [], evaluation=page)
  assert "global (%)" in path.read_text()
