import csv
import json

import pytest

from delf.base import errors, files
from delf.python.datasets.google_landmarks_dataset import dataset_file_io

_CASES = (
  "ReadSolution|rec", "ReadSolution|ret", "ReadSolution|bad_task",
  "ReadSolution|bad_usage", "ReadSolution|bad_int", "ReadPredictions|rec",
  "ReadPredictions|ret", "ReadPredictions|repeated",
  "ReadPredictions|unrecognized", "ReadPredictions|malformed",
  "ReadPredictions|bad_task", "ReadPredictions|repeated_empty",
)  # fmt: skip


def _write(path, text):
  path.write_text(text)
  return str(path)


@pytest.mark.parametrize("name", _CASES)
def test_files_are_read_as_the_original_reads_them(goldens, name, tmp_path):
  cases = json.loads((goldens / "metrics_gld_files.json").read_text())
  assert set(cases) == set(_CASES)
  case = cases[name]
  path = _write(tmp_path / "file.csv", case["text"])
  ids = [case[f"{part}_ids"] for part in ("public", "private", "ignored")
         if f"{part}_ids" in case]  # fmt: skip
  read = getattr(dataset_file_io, name.split("|")[0])
  status, expected = case["result"]
  if status == "ok":
    assert list(read(path, *ids, case["task"])) == expected
  else:
    with pytest.raises(errors.InputError):
      read(path, *ids, case["task"])


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("a,1,Public", "a occurs twice"),
    ("b,1", "2 columns"),
    ("b,x,Public", "'x'"),
    ("b,1,Pub", "is Pub, not one of Public, "),
  ],
)
def test_bad_lines_of_a_solution_are_named(line, words, tmp_path):
  text = f"id,landmarks,Usage\na,1 2,Public\n\n{line}\n"
  path = _write(tmp_path / "solution.csv", text)
  with pytest.raises(errors.InputError) as error:
    dataset_file_io.ReadSolution(path, "recognition")
  assert str(error.value).startswith(f"{path}, line 4: ")
  assert words in str(error.value)


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("a,2 0.5", "a occurs twice"),
    ("b,2 nan", "nan"),
    ("b,x 1", "'x 1'"),
    ("b,2", "'2' is not a landmark and a finite score"),
    ("c,2 1", "no test image c"),
    ("b", "2 columns"),
  ],
)
def test_bad_lines_of_predictions_are_named(line, words, tmp_path):
  path = _write(tmp_path / "p.csv", f"id,landmarks\na,1 0.25\n{line}\n")
  with pytest.raises(errors.InputError) as error:
    dataset_file_io.ReadPredictions(path, ["a"], ["b"], [], "recognition")
  assert str(error.value).startswith(f"{path}, line 3: ")
  assert words in str(error.value)


def test_long_lists_of_images_are_read(tmp_path):
  names = [f"{i:016x}" for i in range(20000)]
  path = _write(
    tmp_path / "s.csv", f"id,images,Usage\r\na,{' '.join(names)} ,Private\r\n"
  )
  limit = csv.field_size_limit()
  _, private, _ = dataset_file_io.ReadSolution(path, "retrieval")
  assert private == {"a": names}
  assert csv.field_size_limit() == limit


@pytest.mark.parametrize("part", [",", '"\n",'], ids=["line", "quoted lines"])
def test_a_row_without_end_is_refused(part, tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_MAX_ROW", 1000)
  whole = f"id,images,Usage\n{'a' * 600},b,Public\n{'b' * 600},b,Public\n"
  path = _write(tmp_path / "s.csv", whole)
  assert len(dataset_file_io.ReadSolution(path, "retrieval")[0]) == 2
  _write(tmp_path / "s.csv", whole + part * 1001)
  with pytest.raises(errors.InputError, match="a row of over 1000"):
    dataset_file_io.ReadSolution(path, "retrieval")


def test_files_that_are_no_csv_files_are_named(tmp_path):
  path = tmp_path / "s.csv"
  for data in (b"id\n\xff\xfe\0\0", b"id,l,U\na,\0,Public\n"):
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match="s.csv"):
      dataset_file_io.ReadSolution(path, "recognition")
  with pytest.raises(errors.InputError, match="a folder"):
    dataset_file_io.ReadSolution(tmp_path, "recognition")
  with pytest.raises(FileNotFoundError, match="none.csv"):
    dataset_file_io.ReadSolution(tmp_path / "none.csv", "recognition")
