import json

import numpy as np
import pytest

from delf.python import datum_io
from delf.python.cli import main


@pytest.fixture
def datum(tmp_path):
  path = tmp_path / "mean.datum"
  datum_io.WriteToFile(np.arange(4, dtype=np.float32), str(path))
  return str(path)


def test_prints_for_people(datum, capsys):
  assert main.main(["info", datum]) == 0
  out, err = capsys.readouterr()
  assert out.startswith(f"{datum}: array\n")
  assert "  value: 0 to 3\n" in out
  assert not err


def test_prints_one_json_document(datum, capsys):
  assert main.main(["info", "--json", datum, datum]) == 0
  found = json.loads(capsys.readouterr().out)
  assert [f["shape"] for f in found] == [[4], [4]]


def test_a_bad_file_is_one_line_and_the_others_go_on(datum, capsys, tmp_path):
  bad = tmp_path / "bad.datum"
  bad.write_bytes(b"\x0a\xff\x01")
  assert main.main(["info", str(bad), datum]) == 1
  out, err = capsys.readouterr()
  assert err.count("\n") == 1
  assert str(bad) in err
  assert "array" in out
