"""Pictures of a run, and what a run of the script leaves."""

import numpy as np
import pytest
from PIL import Image

from delf.learning import delg, delg_settings, watchers
from delf.pictures import figures
from tests.stand_ins import tiny_training


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a run."""
  folder = tmp_path_factory.mktemp("run")
  options = delg_settings.Settings(
    str(folder),
    delg_settings.Data(num_classes=3, batch_size=4, image_size=65),
    delg_settings.Network(backbone="tiny"),
    delg_settings.Learning(max_iters=4),
    delg_settings.Reporting(report_every=2, save_every=2, validate_every=2),
  )
  observers = watchers.standard(options)
  with tiny_training.registered():
    delg.fit(options, observers, tiny_training.NoiseBatches())
  return folder


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"), np.int16)


def test_a_run_leaves_its_pictures(run):
  names = {path.name for path in run.glob("*.png")}
  assert names == {"curves.png", "attention.png", "attention_before.png"}
  for name in names:
    assert _read(run / name).std() > 10
  assert (run / "metrics.jsonl").read_text().count("\n") == 4
  # What it looks at stays, what it finds does not.
  before, after = (
    _read(run / n) for n in ("attention_before.png", "attention.png")
  )
  half = len(before) // 2
  assert np.abs(before - after)[100:half].max() == 0
  assert np.abs(before - after)[half:-100].max() > 10


def test_attention_is_where_the_colour_is():
  photos = np.full([1, 8, 8, 3], 128, np.uint8)
  attention = np.zeros([1, 2, 2])
  attention[0, 0, 1] = 5.0
  found = figures.attention_over(photos, attention)[0].astype(int)
  colour = np.abs(found - 128).sum(axis=2)
  assert colour[:2, 6:].min() > colour[4:].max() > 0
  # No attention anywhere is no error.
  figures.attention_over(photos, np.zeros([1, 2, 2]))


def test_curves_of_one_point_and_of_none(tmp_path):
  panels = {"loss": {"a": ([1], [2.0]), "b": ([1, 2], [np.nan, np.inf])}}
  figures.draw_curves(tmp_path / "a.png", panels, "title")
  assert _read(tmp_path / "a.png").std() > 10
