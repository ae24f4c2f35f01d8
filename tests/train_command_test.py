"""`delf train`, from photos to a model that other commands take."""

import json
import os
import pathlib

import cv2
import numpy as np
import pytest

from delf.cli import main
from delf.learning import compact_model
from delf.learning.finetune import measuring

# One training serves all of them.
pytestmark = pytest.mark.slow


_MORE = ["--view", "64", "--size", "96"]


def _things(folder):
  """Writes two things, six photos each, and a file that is no photo."""
  generator = np.random.default_rng(0)
  for name in ("cup", "vase"):
    noise = generator.integers(0, 256, [24, 32, 3], dtype=np.uint8)
    noise = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
    (folder / name).mkdir(parents=True)
    for i in range(6):
      view = np.array([[1, 0.02 * i, 2.0 * i], [-0.02 * i, 1, i], [0, 0, 1]])
      image = cv2.warpPerspective(noise, view, (160, 120))
      cv2.imwrite(str(folder / name / f"{i}.png"), image)
  (folder / "cup" / "broken.jpg").write_bytes(b"no photo")
  return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """A folder with photos and a model, and what was said."""
  folder = tmp_path_factory.mktemp("training")
  _things(folder / "photos")
  with pytest.MonkeyPatch.context() as patch:
    for name, number in (("SYNTHETIC_OF_ONE", 2), ("MOST_UNRELATED", 5)):
      patch.setattr(measuring, f"_{name}", number)
    patch.setattr(compact_model, "_MOST_VIEWS", 20)
    patch.chdir(folder)
    budget = ["--steps", "2", "--from", "scratch"]
    status = main.main(["train", "photos", "--out", "model", *budget, *_MORE])
  return folder, status


def test_a_bad_photo_is_left_out(trained):
  folder, status = trained
  assert status == 1
  record = json.loads((folder / "model" / "training.json").read_text())
  assert record["photos"] + record["held_out"] == 12
  assert [failure["path"] for failure in record["failed"]] == [
    "photos/cup/broken.jpg"
  ]
  assert record["curve"][-1]["step"] == 2


def test_scores_are_before_and_after(trained):
  record = json.loads((trained[0] / "model" / "training.json").read_text())
  assert list(record["scores"]) == ["before", "labels alone", "after"]
  assert record["kept"] in record["scores"]
  for scores in record["scores"].values():
    assert 0 <= scores["average_precision"] <= 1
    assert scores["nearest"][1] == record["held_out"] == 2
    assert scores["synthetic"][1] == 4


def test_the_card_says_all_of_it(trained):
  model = trained[0] / "model"
  card = " ".join((model / "MODEL_CARD.md").read_text().split())
  for words in (
    "10 training photos, 2 held out",
    "1 failed.",
    "2 classes",
    "| held-out photos | before | labels alone | after |",
    "delf train photos --out model --from scratch --steps 2 --view 64",
    "2 steps of 2 pairs of views of 64 pixels",
    "tensorflow",
  ):
    assert words in card
  for name in ("curves.png", "match_before.jpg", "match_after.jpg"):
    assert (model / name).exists() and f"({name})" in card


def test_other_commands_take_the_model(trained, tmp_path, capsys):
  folder, _ = trained
  photos = [str(folder / "photos" / "cup" / f"{i}.png") for i in (0, 1)]
  more = ["--no-picture", "--json", "--model", str(folder / "model")]
  assert main.main(["match", *photos, *more]) == 0
  assert json.loads(capsys.readouterr().out)["features"][0] > 0


def test_what_is_there_is_not_replaced(trained, capsys, monkeypatch):
  folder, _ = trained
  monkeypatch.chdir(folder)
  assert not pathlib.Path("model.unfinished").exists()
  before = os.stat("model").st_mtime_ns
  start = ["--from", "scratch", "--steps", "3"]
  again = ["train", "photos", "--out", "model", *start, *_MORE]
  assert main.main(again) == 1
  assert "with steps 2, not 3" in capsys.readouterr().err
  assert os.stat("model").st_mtime_ns == before


def test_what_is_unfinished_stays_unless_it_became_the_model(trained, capsys):
  folder, _ = trained
  settings = json.loads((folder / "model/training.json").read_text())
  settings = settings["settings"]
  argv = ["train", str(folder / "photos"), "--out", str(folder / "model")]
  unfinished = folder / "model.unfinished"
  for changed, stays in (({"seed": 7}, True), ({}, False)):
    unfinished.mkdir(exist_ok=True)
    text = json.dumps(settings | changed)
    (unfinished / "settings.json").write_text(text)
    (unfinished / "after.json").write_text("{}")
    assert main.main([*argv, "--from", "scratch"]) == 1
    assert unfinished.exists() == stays
  capsys.readouterr()


def test_training_goes_on_from_the_model(trained):
  from delf.learning.finetune import model as finetuned

  model = trained[0] / "model"
  assert finetuned.find_weights(str(model)) == model / "weights.npz"
  finetuned.create(model / "weights.npz", 0)
