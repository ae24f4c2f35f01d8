"""Options of the commands that train, and the command on a model's card."""

import pytest

from delf.cli import main, train
from delf.learning.finetune import detector as detector_options
from delf.learning.finetune import records

_KINDS = {
  "train": records.TrainOptions,
  "train-detector": detector_options.DetectorOptions,
}


def _parse(words):
  return main.make_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("command", _KINDS)
@pytest.mark.parametrize(
  "more",
  [
    [],
    ["--minutes", "15"],
    ["--minutes", "7.5", "--rotate", "--from", "scratch", "--rate", "0.01"],
    ["--steps", "3", "--seed", "4", "--batch", "2"],
  ],
)
def test_the_command_of_a_card_tells_the_same(command, more):
  first = [command, *(["b.csv"] if command == "train-detector" else [])]
  args = _parse([*first, "photos", "more photos", "--out", "mine", *more])
  words = train.command(["delf", *first], args, _KINDS[command])
  again = _parse(words[1:])
  assert again.sources == args.sources and again.out == args.out
  told = train.told(args, _KINDS[command])
  assert train.told(again, _KINDS[command]) == told
  # One of the two, and the time is the default.
  assert (told.minutes, told.steps) in {(15, None), (7.5, None), (None, 3)}
  if not more:
    assert words == ["delf", *first, "photos", "more photos", "--out", "mine"]
