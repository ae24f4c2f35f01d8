import json
import pathlib

import pytest

from delf.python.cli import main
from delf.python.inference import zoo, zoo_table


def test_demo_as_json(tmp_path, capsys):
  if not zoo.is_present(zoo.artefact(zoo_table.EMBEDDED)):
    pytest.skip("the embedded model is not in this checkout")
  argv = ["demo", "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]
  assert main.main(argv) == 0
  made = json.loads(capsys.readouterr().out)
  assert made["as_expected"]
  assert pathlib.Path(made["picture"]) == tmp_path / "out" / "matches.png"
  for path in [made["picture"], *made["photos"], *made["features"]]:
    assert pathlib.Path(path).stat().st_size > 1000


def test_an_unknown_model_is_one_line(tmp_path, capsys):
  argv = ["demo", "--out", str(tmp_path / "out"), "--model", "delf_compact"]
  assert main.main(argv) == 1
  out, err = capsys.readouterr()
  assert (out, err.count("\n")) == ("", 1)
  assert "delf-compact" in err
  assert not (tmp_path / "out").exists()
