import pytest

from delf.python import errors
from delf.python.pipelines.train import options, sources


def _photos(folder, *names):
  for name in names:
    path = folder / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
  return folder


def _ten(start=""):
  return [f"{start}{i}" for i in range(10)]


def test_folders_are_classes_where_all_photos_lie_in_them(tmp_path):
  found = sources.find([_photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2")])
  assert found.labels == ["cat"] * 10 + ["dog"] * 2
  assert found.classes() == {"cat": 10, "dog": 2}


def test_deeper_folders_are_of_the_class_above(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/a/1", "dog/b/2")
  assert sources.find([given]).classes() == {"cat": 10, "dog": 2}


def test_photos_in_no_folder_have_no_classes(tmp_path):
  found = sources.find([_photos(tmp_path, *_ten())])
  assert found.labels is None and found.classes() == {}


def test_folders_need_not_be_classes(tmp_path):
  given = _photos(tmp_path, *_ten("2024/"), "2025/1")
  assert sources.find([given], options.NO_LABELS).labels is None


def test_a_mixture_is_asked_about(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "stray")
  with pytest.raises(errors.InputError, match="--labels.*cat/0.*stray"):
    sources.find([given])
  _photos(tmp_path, "dog/1", "dog/2")
  found = sources.find([given], options.FOLDERS)
  assert found.labels[found.names.index("stray")] is None


def test_classes_by_a_file(tmp_path):
  given = _photos(tmp_path / "photos", *_ten())
  path = tmp_path / "labels.csv"
  path.write_text("photo,class\n0.jpg,a\n1,a\n2.jpg,b\n3.jpg, b\n")
  found = sources.find([given], str(path))
  assert found.labels == ["a", "a", "b", "b"] + [None] * 6


@pytest.mark.parametrize(
  "text, words",
  [
    ("0.jpg,a\nnowhere.jpg,b\n", "nowhere.jpg in line 2"),
    ("0.jpg,a\n1.jpg\n", "'1.jpg' in line 2"),
    ("0.jpg,a\n1.jpg,a\n", "2 classes"),
  ],
)
def test_files_that_are_not_right(tmp_path, text, words):
  given = _photos(tmp_path / "photos", *_ten())
  (tmp_path / "labels.csv").write_text(text)
  with pytest.raises(errors.InputError, match=words):
    sources.find([given], str(tmp_path / "labels.csv"))


def test_a_class_without_photos_is_named(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2")
  (given / "cow").mkdir()
  with pytest.raises(errors.InputError, match="cow"):
    sources.find([given])


def test_classes_of_one_photo_are_but_some(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2", "cow/1")
  assert sources.find([given]).classes()["cow"] == 1
  lonely = _photos(tmp_path / "other", *[f"{i}/0" for i in range(10)])
  with pytest.raises(errors.InputError, match="2 classes of 2 photos"):
    sources.find([lonely])


def test_few_photos_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match="at least 10 photos"):
    sources.find([_photos(tmp_path, "one")])
