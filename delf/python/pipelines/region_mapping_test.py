import pytest

from delf.python import errors
from delf.python.pipelines import region_mapping

_NAMES = ["a", "b", "c"]
_HEADER = "name,index_image_id,box_id\n"


def _read(tmp_path, text):
  path = tmp_path / "mapping.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return region_mapping.read(path, _NAMES)


def test_files_of_each_image_are_in_order(tmp_path):
  text = _HEADER + "b_0,1,-1\na_0,0,-1\nb_1,1,0\nb_2,1,1\n"
  assert _read(tmp_path, text) == {"b": ["b_0", "b_1", "b_2"], "a": ["a_0"]}
  assert _read(tmp_path, "\ufeff" + _HEADER.replace("\n", "\r\n")) == {}


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "columns name,index_image_id,box_id"),
    ("name,box_id\na,0\n", "name,box_id"),
    (_HEADER + "a,3,-1\n", "from 0 to 2.*'3' in line 2"),
    (_HEADER + "a,0,-1\nb,-1,0\n", "'-1' in line 3"),
    (_HEADER + "a,x,-1\n", "'x'"),
    (_HEADER + f"a,{'9' * 5000},-1\n", "line 2"),
    (_HEADER + "a\n", "line 2"),
    (_HEADER + ",1,2\n", "''"),
    (b"\xff\xfe\0\0", "binary"),
    (_HEADER + '"' + "a" * 2**24, "CSV"),
  ],
)
def test_other_files_are_refused(text, words, tmp_path):
  with pytest.raises(errors.InputError, match=words):
    _read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.csv"):
    region_mapping.read(tmp_path / "nowhere.csv", _NAMES)
