"""`delf train-detector` from photos and boxes to a detector that is loaded."""

import json

import numpy as np
import pytest

from delf.cli import main
from delf.inference import detector as inference
from tests.stand_ins import tiny_boxes


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  return tiny_boxes.write_detector(tmp_path_factory.mktemp("first"))


@pytest.fixture
def given(tmp_path):
  """CSV file and folder of photos."""
  return tiny_boxes.write(tmp_path)


@pytest.mark.slow
def test_command_trains_and_says_what_it_gave(first, given, tmp_path, capsys):
  out = tmp_path / "my boxes"
  argv = ["train-detector", *given, "--out", str(out), "--from", str(first)]
  argv += ["--steps", "2", "--batch", "2"]
  assert main.main(argv) == 0
  printed = capsys.readouterr().out
  for words in ("2 steps on 11 photos", "| whole image |", "kept: "):
    assert words in printed
  found = inference.load(out, device="cpu").detect(
    np.zeros([1, 40, 50, 3], np.uint8)
  )
  assert len(found) == 1
  text = (out / "MODEL_CARD.md").read_text()
  assert "11 training photos and 1 held out" in text
  assert "--steps 2" in text and "'" in text
  record = json.loads((out / "training.json").read_text())
  assert record["report"]["steps"] == 2
  assert not out.with_name("my boxes.unfinished").exists()
  # Done already: said, and nothing is lost.
  assert main.main(argv) == 1
  assert "finished model of the same settings" in capsys.readouterr().err
