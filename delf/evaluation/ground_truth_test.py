import json
import pickle

import numpy as np
import pytest

from delf.base import errors
from delf.evaluation import ground_truth

_INDEX = ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg", "photos/d.jpg"]
_LISTED = {
  "dataset": "mine",
  "imlist": ["c", "a", "d"],
  "qimlist": ["q"],
  "gnd": [{"easy": [0], "hard": [2], "junk": [1], "bbx": [1, 2, 3, 4]}],
}


def _csv(path, *lines, header="query,image,label"):
  path.write_text("\n".join([header, *lines]) + "\n")
  return path


def _json(path, content):
  path.write_text(content if isinstance(content, str) else json.dumps(content))
  return path


def _labels(truth, query=0):
  names = np.array(truth.index_names)
  return {
    label: names[getattr(truth, label)[query]].tolist()
    for label in ("easy", "hard", "junk")
  }


def test_graded_tables_are_read(tmp_path):
  path = _csv(
    tmp_path / "mine.csv",
    "q1.jpg,photos/a.jpg,easy",
    "q1.jpg,b,Hard",
    "",
    "q1.jpg, c.jpg ,junk",
    "q2.jpg,d,easy",
  )
  truth = ground_truth.read(path, _INDEX)
  assert truth.dataset == "mine"
  assert truth.query_names == ("q1.jpg", "q2.jpg")
  assert truth.index_names == tuple(_INDEX)
  assert _labels(truth) == {
    "easy": ["photos/a.jpg"],
    "hard": ["photos/b.jpg"],
    "junk": ["photos/c.jpg"],
  }
  assert list(truth.protocols()) == ["easy", "medium", "hard"]
  medium = truth.protocols()["medium"]
  assert [entry["ok"].tolist() for entry in medium] == [[0, 1], [3]]
  assert truth.boxes == (None, None)


def test_plain_tables_have_one_protocol(tmp_path):
  path = _csv(tmp_path / "t.csv", "q,a,positive", "q,b,junk")
  truth = ground_truth.read(path, _INDEX)
  assert not truth.graded
  (all_of_them,) = truth.protocols()["all"]
  assert all_of_them["ok"].tolist() == [0]
  assert all_of_them["junk"].tolist() == [1]


def test_boxes_are_read_from_tables(tmp_path):
  path = _csv(
    tmp_path / "t.csv",
    "q,a,positive,1,2.5,30,40",
    "q,b,positive,,,,",
    "p,a,positive",
    header="query,image,label,x1,y1,x2,y2",
  )
  box, none = ground_truth.read(path, _INDEX).boxes
  np.testing.assert_array_equal(box, [1, 2.5, 30, 40])
  assert none is None


def test_json_by_query_is_read(tmp_path):
  content = {
    "q": {"positive": ["a.jpg", "b"], "junk": ["c"], "bbx": [0, 0, 5, 6]},
    "p": {},
  }
  truth = ground_truth.read(_json(tmp_path / "t.json", content), _INDEX)
  assert truth.query_names == ("q", "p")
  assert truth.easy[0].tolist() == [0, 1]
  assert truth.junk[0].tolist() == [2]
  np.testing.assert_array_equal(truth.boxes[0], [0, 0, 5, 6])
  assert truth.protocols()["all"][1]["ok"].dtype == np.int64


@pytest.mark.parametrize("kind", ["json", "pkl"])
def test_listed_images_are_found_in_the_collection(kind, tmp_path):
  path = tmp_path / f"gnd_mine.{kind}"
  if kind == "json":
    _json(path, _LISTED)
  else:
    path.write_bytes(pickle.dumps(_LISTED))
  own = ground_truth.read(path)
  assert own.index_names == ("c", "a", "d")
  assert (own.dataset, own.distractors) == ("mine", 0)
  placed = ground_truth.read(path, _INDEX)
  assert placed.distractors == 1
  for label in ("easy", "hard", "junk"):
    ids = getattr(own, label)[0]
    names = [f"photos/{own.index_names[i]}.jpg" for i in ids]
    assert _labels(placed)[label] == names


def test_a_query_of_the_collection_is_junk_for_itself(tmp_path):
  path = _csv(tmp_path / "t.csv", "a.jpg,b,positive", "c,c,positive")
  truth = ground_truth.read(path, _INDEX)
  assert [ids.tolist() for ids in truth.junk] == [[0], []]
  assert truth.easy[1].tolist() == [2]


def test_published_ground_truth_is_read_alike_from_each_form(shared_data):
  folder = shared_data / "mini_roxford5k"
  one = ground_truth.read(folder / "gnd.json")
  other = ground_truth.read(folder / "gnd_mini_roxford5k.mat")
  assert one.dataset == other.dataset == "mini_roxford5k"
  assert one.index_names == other.index_names
  assert one.query_names == other.query_names
  for label in ("easy", "hard", "junk"):
    for ids, same in zip(
      getattr(one, label), getattr(other, label), strict=True
    ):
      assert ids.dtype == same.dtype == np.int64
      np.testing.assert_array_equal(ids, same)


@pytest.mark.parametrize(
  ("line", "words"),
  [
    ("q,z,positive", "'z'"),
    ("q,a,good", "'good'"),
    ("q,a.jpg,positive", "one label"),
    ("q,a,junk", "one label"),
    ("q,,positive", "empty name"),
    ("q,a", "2 columns"),
    ("q,b,positive,1,2,3,4", "7 columns"),
    ('q,"b,positive', "CSV"),
  ],
)
def test_bad_lines_of_a_table_are_named(line, words, tmp_path):
  path = _csv(tmp_path / "t.csv", "q,a,positive", "q,c,junk", line)
  with pytest.raises(errors.InputError) as error:
    ground_truth.read(path, _INDEX)
  assert words in str(error.value)
  if words != "CSV":
    assert str(error.value).startswith(f"{path}, line 4: ")


@pytest.mark.parametrize(
  "line",
  ["q,b,positive,4,3,2,1", "q,b,positive,x,1,2,3", "q,b,positive,1,1,3,9"],
)
def test_bad_boxes_of_a_table_are_named(line, tmp_path):
  header = "query,image,label,x1,y1,x2,y2"
  path = _csv(tmp_path / "t.csv", "q,a,positive,1,1,2,2", line, header=header)
  with pytest.raises(errors.InputError, match="line 3"):
    ground_truth.read(path, _INDEX)


def test_two_gradings_in_one_file_are_refused(tmp_path):
  path = _csv(tmp_path / "t.csv", "q,a,positive", "p,b,hard")
  with pytest.raises(
    errors.InputError, match="'p' is graded .* with 'positive'"
  ):
    ground_truth.read(path, _INDEX)


def test_names_of_two_images_are_refused(tmp_path):
  path = _csv(tmp_path / "t.csv", "q,a,positive")
  with pytest.raises(errors.InputError, match="'a' fits two images"):
    ground_truth.read(path, ["x/a.jpg", "y/a.jpg"])
  path = _csv(tmp_path / "t.csv", "q,x/a.png,positive")
  truth = ground_truth.read(path, ["y/a.jpg", "x/a.jpg"])
  assert truth.easy[0].tolist() == [1]


@pytest.mark.parametrize(
  ("content", "words"),
  [
    ("{", "JSON"),
    ("[" * 100_000, "JSON"),
    ("[]", "JSON object"),
    ("{}", "labelled images"),
    ('{"q": {"positive": ["a"]}, "q": {}}', "the name q occurs twice"),
    ({"q": {"good": ["a"]}}, "'good'"),
    ({"q": {"positive": ["z"]}}, "'z'"),
    ({"q": {"positive": ["a", "a"]}}, "one label"),
    ({"q": {"positive": [1]}}, "'positive' is not a list of names"),
    ({"q": {"positive": "a"}}, "'positive' is not a list of names"),
    ({"q": ["a"]}, "labels"),
    ({"q": {"positive": ["a"], "bbx": [1, 2]}}, "box"),
    ({"q": {"positive": ["a"], "bbx": 3}}, "box"),
    ({"q": {"positive": ["a"], "easy": ["b"]}}, "'q' is graded"),
    (
      _LISTED | {"gnd": [{"easy": [9], "hard": [], "junk": []}]},
      "id 9 (from 0), of 3",
    ),
    (_LISTED | {"gnd": [{"easy": [0], "hard": [0], "junk": []}]}, "one label"),
    (_LISTED | {"gnd": [{"ok": [0], "junk": []}]}, "older Oxford5k"),
    (_LISTED | {"gnd": [3]}, "labels of query 1"),
    (_LISTED | {"gnd": 3}, "lists"),
    (_LISTED | {"imlist": ["a", "a", "c"]}, "image 'a' occurs twice"),
    (
      _LISTED | {"imlist": ["a", "x", "y"]},
      "without 2 of its 3 images, such as 'x'",
    ),
    (
      _LISTED | {"qimlist": ["b"]},
      "1 of the query images, such as 'b': older",
    ),
  ],
)
def test_json_that_is_no_ground_truth_is_refused(content, words, tmp_path):
  path = _json(tmp_path / "t.json", content)
  with pytest.raises(errors.InputError) as error:
    ground_truth.read(path, _INDEX)
  assert words in str(error.value)
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


def test_a_name_that_is_twice_is_found_in_a_large_file(tmp_path):
  # Hours, were each name counted.
  names = [f"i{number}" for number in range(100_000)]
  path = _json(tmp_path / "t.json", _LISTED | {"imlist": [*names, names[-1]]})
  with pytest.raises(errors.InputError, match="'i99999' occurs twice"):
    ground_truth.read(path)
  entries = ", ".join(f'"{name}": {{}}' for name in [*names, names[-1]])
  path.write_text(f"{{{entries}}}")
  with pytest.raises(errors.InputError, match="i99999 occurs twice"):
    ground_truth.read(path)


def test_other_files_are_refused(tmp_path):
  (tmp_path / "t.csv").write_bytes(b"\xff\xfe\0")
  with pytest.raises(errors.InputError, match="binary"):
    ground_truth.read(tmp_path / "t.csv")
  with pytest.raises(errors.InputError, match=r"\.txt"):
    ground_truth.read(tmp_path / "t.txt")
  with pytest.raises(errors.InputError, match="header"):
    ground_truth.read(_csv(tmp_path / "t.csv", header="query,image"))
  with pytest.raises(errors.InputError, match="labelled images"):
    ground_truth.read(_csv(tmp_path / "t.csv"))
  with pytest.raises(FileNotFoundError, match="none.json"):
    ground_truth.read(tmp_path / "none.json")
