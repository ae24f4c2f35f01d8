import json

import numpy as np
import pytest

from delf.base import errors
from delf.python.datasets.google_landmarks_dataset import metrics

_RECOGNITION = ("random40_ties", "all_correct", "empty_pred", "no_positives",
                "unknown_key")  # fmt: skip
_RETRIEVAL = ("random12_dups", "empty_pred", "unknown", "empty_solution_list",
              "empty_string_solution")  # fmt: skip
_CALLS = {
  "GAP_ignore0": lambda *a: metrics.GlobalAveragePrecision(*a),
  "GAP_ignore1": lambda *a: metrics.GlobalAveragePrecision(*a, True),
  "Top1Accuracy": metrics.Top1Accuracy,
}
for _name in ("MeanAveragePrecision", "MeanPrecisions", "MeanMedianPosition"):
  for _most in (100, 5):
    _CALLS[f"{_name}@{_most}"] = lambda *a, name=_name, most=_most: getattr(
      metrics, name
    )(*a, max_predictions=most)


@pytest.mark.parametrize(
  "name",
  [f"rec|{name}" for name in _RECOGNITION]
  + [f"ret|{name}" for name in _RETRIEVAL],
)
def test_metrics_are_the_original_s(goldens, name):
  case = json.loads((goldens / "metrics_gld.json").read_text())[name]
  arguments = case.pop("predictions"), case.pop("solution")
  for function, (status, expected) in case.items():
    if (name, status) == ("ret|empty_solution_list", "raises"):
      # It divides by 0 there; without an answer a query counts 0.
      assert _CALLS[function](*arguments) == 0
    elif status == "raises":
      with pytest.raises(errors.InputError):
        _CALLS[function](*arguments)
    else:
      found = _CALLS[function](*arguments)
      np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_what_cannot_be_measured_is_refused():
  for max_predictions, solution in ((0, {"a": ["x"]}), (5, {})):
    for name in ("MeanAveragePrecision", "MeanPrecisions",
                 "MeanMedianPosition"):  # fmt: skip
      with pytest.raises(errors.InputError):
        getattr(metrics, name)({}, solution, max_predictions)
