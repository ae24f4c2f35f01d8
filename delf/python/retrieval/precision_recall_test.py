import numpy as np
import pytest

from delf.python import errors
from delf.python.retrieval import precision_recall


def _curve(*arguments, **options):
  recalls, precisions = precision_recall.mean_curve(*arguments, **options)
  return dict(zip(recalls.round(3), precisions.round(4), strict=True))


def test_precision_is_the_highest_from_a_recall_on():
  # Hits at ranks 1, 4 and 5 of 4 positives: precisions 1, 1/2, 3/5.
  curve = _curve([[7, 1, 2, 8, 9]], [[7, 8, 9, 5]], levels=5)
  assert curve == {0: 1, 0.25: 1, 0.5: 0.6, 0.75: 0.6, 1: 0}


def test_junk_and_padding_count_as_not_there():
  with_junk = _curve([[3, 7, -1, 4, 8]], [[7, 8]], [[3, 4]], levels=3)
  assert with_junk == {0: 1, 0.5: 1, 1: 1}


def test_queries_without_positives_are_left_out_of_the_mean():
  curve = _curve([[1, 2], [2, 1], [1, 2]], [[1], [1], []], levels=2)
  assert curve == {0: 0.75, 1: 0.75}
  assert np.isnan(list(_curve([[1]], [[]], levels=3).values())).all()


def test_an_empty_ranking_has_no_precision():
  assert _curve([[]], [[1]], levels=2) == {0: 0, 1: 0}


def test_what_cannot_be_right_is_refused():
  with pytest.raises(errors.InputError, match="of 1 queries"):
    precision_recall.mean_curve([[1]], [])
  with pytest.raises(errors.InputError, match="once"):
    precision_recall.mean_curve([[1, 1]], [[1]])
