"""From photos and boxes to a detector that is loaded."""

import json

import numpy as np
import pytest

from delf.python import errors
from delf.python.pipelines.train import learning
from delf.python.pipelines.train_detector import options, run
from delf.python.training.detector import data, export
from tests import tiny_boxes


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  return tiny_boxes.write_detector(tmp_path_factory.mktemp("first"))


@pytest.fixture
def given(tmp_path):
  """CSV file and folder of photos."""
  return tiny_boxes.write(tmp_path)


def _options(first, steps=3):
  return options.DetectorOptions(
    start=str(first), minutes=None, steps=steps, rate=5e-3, batch=2
  )


def _weights(path):
  return export.load(path).head.get_weights()


def test_better_detector_is_kept(first, given, tmp_path, monkeypatch):
  told = _options(first)
  report = run.train(given[0], given[1:], tmp_path / "a", told)
  kept = _weights(tmp_path / "a")
  same = all(
    np.array_equal(a, b) for a, b in zip(kept, _weights(first), strict=True)
  )
  assert same == (report.kept == run.BEFORE)
  precisions = {k: s.average_precision for k, s in report.scores.items()}
  assert precisions[report.kept] >= precisions[run.BEFORE]


def test_run_that_breaks_off_ends_as_it_would_have(
  first, given, tmp_path, monkeypatch
):
  # Whatever is measured, the trained one.
  monkeypatch.setattr(run, "_gained", lambda scores: True)
  told = _options(first)
  run.train(given[0], given[1:], tmp_path / "whole", told)

  draw = data.batch

  def break_off(known, drawn, step):
    if step == 2:
      raise RuntimeError("broken off")
    return draw(known, drawn, step)

  with monkeypatch.context() as patch:
    patch.setattr(data, "batch", break_off)
    patch.setattr(learning, "_SAVE_INTERVAL", 0)
    with pytest.raises(RuntimeError, match="broken off"):
      run.train(given[0], given[1:], tmp_path / "parts", told)
  assert not (tmp_path / "parts").exists()
  begun = []

  def watch(known, drawn, step):
    begun.append(step)
    return draw(known, drawn, step)

  monkeypatch.setattr(data, "batch", watch)
  run.train(given[0], given[1:], tmp_path / "parts", told)
  assert min(begun) > 0
  for one, two in zip(
    _weights(tmp_path / "whole"), _weights(tmp_path / "parts"), strict=True
  ):
    np.testing.assert_allclose(one, two, rtol=1e-2, atol=1e-3)


def test_unfinished_run_of_other_settings_is_refused(first, given, tmp_path):
  folder = tmp_path / "a.unfinished"
  folder.mkdir()
  (folder / "settings.json").write_text(json.dumps({"batch": 7}))
  told = _options(first)
  with pytest.raises(errors.InputError, match="batch 7, not 2"):
    run.train(given[0], given[1:], tmp_path / "a", told)
  run.train(given[0], given[1:], tmp_path / "a", told, overwrite=True)
  assert not folder.exists()


def test_model_that_is_no_detector_is_refused(given, tmp_path):
  import tensorflow as tf

  tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
  told = _options(tmp_path / "other")
  with pytest.raises(errors.InputError, match="expected a detector"):
    run.train(given[0], given[1:], tmp_path / "a", told)
  assert not (tmp_path / "a").exists()
