import json

import pytest

from delf.python import errors
from delf.python.cli import main
from delf.python.pipelines import checkup


@pytest.fixture
def checks(monkeypatch):
  def bad():
    raise errors.InputError("a wheel", "none", "car")

  def install(*names):
    known = {"good": lambda: ("four wheels", {"wheels": 4}), "bad": bad}
    monkeypatch.setattr(
      checkup, "CHECKS", {name: known[name] for name in names}
    )

  return install


def test_all_is_well(checks, capsys):
  checks("good")
  assert main.main(["doctor"]) == 0
  out, err = capsys.readouterr()
  assert out.startswith("OK   good           four wheels (")
  assert out.endswith("All is well.\n")
  assert err == ""


def test_a_failure_does_not_end_the_others(checks, capsys):
  checks("bad", "good")
  assert main.main(["doctor"]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("FAIL bad")
  assert "car: expected a wheel, received none" in lines[0]
  assert lines[1].startswith("OK   good")
  assert lines[2] == "Not well: bad."


def test_json(checks, capsys):
  checks("good", "bad")
  assert main.main(["doctor", "--json"]) == 1
  report = json.loads(capsys.readouterr().out)
  assert report["ok"] is False
  good, bad = report["checks"]
  assert (good["ok"], good["facts"]) == (True, {"wheels": 4})
  assert (bad["ok"], bad["name"]) == (False, "bad")
