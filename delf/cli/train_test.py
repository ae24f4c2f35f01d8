"""Options of the commands that train, and the command on a model's card."""

import pytest

from delf.cli import main, train

_COMMANDS = ("train", "train-detector")


def _parse(words):
  return main.make_parser(words[0]).parse_args(words)


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
def test_the_command_of_a_card_tells_the_same(command, more):
  first = [command, *(["b.csv"] if command == "train-detector" else [])]
  args = _parse([*first, "photos", "more photos", "--out", "mine", *more])
  words = train.command(["delf", *first], args)
  again = _parse(words[1:])
  assert again.sources == args.sources and again.out == args.out
  options = train.options(args)
  assert train.options(again) == options
  # One of the two, and the time is the default.
  assert (options.minutes, options.steps) in {
    (15, None),
    (7.5, None),
    (None, 3),
  }
  if not more:
    assert words == ["delf", *first, "photos", "more photos", "--out", "mine"]
