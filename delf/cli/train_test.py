"""Options of the commands that train, and the command on a model's card."""

import pytest

from delf.base import errors
from delf.cli import main

_COMMANDS = ("train", "train-detector")


@pytest.mark.parametrize("command", _COMMANDS)
@pytest.mark.parametrize(
  "more",
  [
    [],
    ["--minutes", "15"],
    ["--minutes", "7.5", "--rotate", "--from", "scratch", "--rate", "0.01"],
    ["--steps", "3", "--seed", "4", "--batch", "2"],
  ],
)
def test_the_command_of_a_card_does_the_same(command, more, monkeypatch):
  trained = []

  def train(*args):
    trained.append(args[-5:])
    raise errors.InputError("enough")

  monkeypatch.setattr("delf.learning.finetune.model.train", train)
  monkeypatch.setattr("delf.learning.finetune.detector.train", train)
  first = [command, *(["b.csv"] if command == "train-detector" else [])]
  assert main.main([*first, "photos", "more photos", "--out", "mine", *more])
  sources, out, options, overwrite, words = trained[0]
  assert words[:1] == ["delf"] and main.main(words[1:])
  assert trained[1] == (sources, out, options, overwrite, words)
  assert (sources, out) == (["photos", "more photos"], "mine")
  # One of the two, and the time is the default.
  assert (options.minutes, options.steps) in {
    (15, None),
    (7.5, None),
    (None, 3),
  }
  if not more:
    assert words[: len(first) + 1] == ["delf", *first]
