import argparse

import pytest

from delf.cli import arguments


@pytest.mark.parametrize(
  ("kind", "good", "bad"),
  [
    (arguments.positive, {"0.5": 0.5}, ["0", "-1", "inf", "nan", "x"]),
    (arguments.positive_whole, {"1": 1}, ["0", "-1", "1.5", "x"]),
    (arguments.whole, {"0": 0, "7": 7}, ["-1", "1.5", "x"]),
  ],
)
def test_numbers(kind, good, bad, capsys):
  parser = argparse.ArgumentParser()
  parser.add_argument("--n", type=kind)
  for text, value in good.items():
    assert parser.parse_args([f"--n={text}"]).n == value
  for text in bad:
    with pytest.raises(SystemExit):
      parser.parse_args([f"--n={text}"])
    assert f"invalid {kind.__name__} value" in capsys.readouterr().err
