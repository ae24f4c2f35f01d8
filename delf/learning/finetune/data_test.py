import cv2
import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.learning import view_pairs
from delf.learning.finetune import data


def _pair(first, second):
  return view_pairs.Pair(first, second, np.zeros([30, 4], np.float32))


def test_candidates_are_the_nearest():
  angles = np.array([0.0, 0.1, 1.5, 1.6, 3.0, 3.1, 4.0, 4.1, 5.0, 5.1])
  units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  found = data.candidates(units).tolist()
  for i in range(0, 10, 2):
    assert [i, i + 1] in found
  assert found == sorted(found) and all(i < j for i, j in found)


def test_candidates_are_of_one_class():
  units = np.tile([[1.0, 0.0]], [8, 1])
  labels = np.array([0, 1] * 4)
  found = data.candidates(units, labels)
  assert len(found) and (labels[found[:, 0]] == labels[found[:, 1]]).all()


def test_what_overlaps_is_verified_and_what_does_not_is_not():
  generator = np.random.default_rng(0)

  def noise():
    small = generator.integers(0, 256, [40, 50, 3], dtype=np.uint8)
    return cv2.resize(small, (200, 160), interpolation=cv2.INTER_CUBIC)

  one, other = noise(), noise()
  moved = np.roll(one, (5, 9), axis=(0, 1))
  found = view_pairs.match_photos(
    [one, moved, other], np.array([[0, 1], [0, 2]])
  )
  assert [(pair.first, pair.second) for pair in found] == [(0, 1)]
  shift = np.median(found[0].points[:, 2:] - found[0].points[:, :2], axis=0)
  np.testing.assert_allclose(shift, [9, 5], atol=0.3)


def test_what_pairs_join_is_one_place():
  pools = data.places(6, [_pair(0, 1), _pair(1, 4)])
  assert pools[0] == pools[1] == pools[4]
  assert len(set(pools.tolist())) == 4
  assert len(set(data.places(3, []).tolist())) == 3


def _photos(folder, *names):
  for name in names:
    path = folder / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
  return folder


def _ten(start=""):
  return [f"{start}{i}" for i in range(10)]


def test_folders_are_classes_where_all_photos_lie_in_them(tmp_path):
  found = data.find([_photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2")])
  assert found.labels == ["cat"] * 10 + ["dog"] * 2
  assert found.classes() == {"cat": 10, "dog": 2}


def test_deeper_folders_are_of_the_class_above(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/a/1", "dog/b/2")
  assert data.find([given]).classes() == {"cat": 10, "dog": 2}


def test_photos_in_no_folder_have_no_classes(tmp_path):
  found = data.find([_photos(tmp_path, *_ten())])
  assert found.labels is None and found.classes() == {}


def test_folders_need_not_be_classes(tmp_path):
  given = _photos(tmp_path, *_ten("2024/"), "2025/1")
  assert data.find([given], data.NO_LABELS).labels is None


def test_a_mixture_is_asked_about(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "stray")
  with pytest.raises(errors.InputError, match="cat/0.*stray.*--labels"):
    data.find([given])
  _photos(tmp_path, "dog/1", "dog/2")
  found = data.find([given], data.FOLDERS)
  assert found.labels[found.names.index("stray")] is None


def test_classes_by_a_file(tmp_path):
  given = _photos(tmp_path / "photos", *_ten())
  path = tmp_path / "labels.csv"
  path.write_text("photo,class\n0.jpg,a\n1,a\n2.jpg,b\n3.jpg, b\n")
  found = data.find([given], str(path))
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
    data.find([given], str(tmp_path / "labels.csv"))


def test_a_class_without_photos_is_named(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2")
  (given / "cow").mkdir()
  with pytest.raises(errors.InputError, match="cow"):
    data.find([given])


def test_classes_of_one_photo_are_but_some(tmp_path):
  given = _photos(tmp_path, *_ten("cat/"), "dog/1", "dog/2", "cow/1")
  assert data.find([given]).classes()["cow"] == 1
  lonely = _photos(tmp_path / "other", *[f"{i}/0" for i in range(10)])
  with pytest.raises(errors.InputError, match="2 classes of 2 photos"):
    data.find([lonely])


def test_few_photos_are_refused(tmp_path):
  with pytest.raises(errors.InputError, match="at least 10 photos"):
    data.find([_photos(tmp_path, "one")])


def test_a_tenth_is_held_out_in_runs_of_names():
  names = [f"{i:04d}" for i in range(500)]
  kept = data.held_out(names[::-1])[::-1]
  assert kept.sum() == 50
  starts = np.flatnonzero(np.diff(kept.astype(int)) == 1)
  assert len(starts) == 5


def test_few_photos_have_two_held_out():
  assert data.held_out(list("abcdefghij")).sum() == 2


def test_a_fifth_of_each_class_is_held_out():
  labels = ["a"] * 12 + ["b"] * 3 + ["c"] * 2 + [None] * 5
  names = [f"{i:02d}" for i in range(len(labels))]
  kept = data.held_out(names, labels)
  assert np.flatnonzero(kept).tolist() == [10, 11, 14]


def test_no_more_than_200_are_measured_with():
  names = [f"{i:05d}" for i in range(5000)]
  assert data.held_out(names).sum() == 200
  assert data.held_out(names, [str(i // 5) for i in range(5000)]).sum() == (200)


@pytest.fixture
def paths(tmp_path):
  generator = np.random.default_rng(0)
  found = []
  for i, size in enumerate([(120, 80), (100, 200), (40, 40)]):
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found.append(tmp_path / f"{i}.png")
    Image.fromarray(pixels).save(found[-1])
  return found


def test_photos_are_scaled_down_and_not_up(paths, tmp_path):
  images, failures = data.decode(paths, tmp_path / "store", size=100)
  shapes = [image.shape for image in images]
  assert shapes == [(67, 100, 3), (100, 50, 3), (40, 40, 3)]
  with Image.open(paths[2]) as small:
    np.testing.assert_array_equal(images[2], np.asarray(small))


def test_bad_photos_are_failures_and_the_others_stay(paths, tmp_path):
  (tmp_path / "bad.jpg").write_bytes(b"no photo")
  narrow = tmp_path / "narrow.png"
  Image.new("RGB", (400, 20)).save(narrow)
  given = [paths[0], tmp_path / "bad.jpg", narrow, paths[2]]
  images, failures = data.decode(given, tmp_path / "store", size=100)
  assert [image is None for image in images] == [False, True, True, False]
  bad, small = failures
  assert bad.path.endswith("bad.jpg") and "not an image" in bad.reason
  assert small.path.endswith("narrow.png") and "100 x 5" in small.reason
  with Image.open(paths[2]) as last:
    np.testing.assert_array_equal(images[3], np.asarray(last))


def test_a_run_that_is_repeated_decodes_nothing(paths, tmp_path):
  first = data.decode(paths, tmp_path / "store", size=100)
  for path in paths:
    path.unlink()
  again = data.decode(paths, tmp_path / "store", size=100)
  for one, two in zip(first[0], again[0], strict=True):
    np.testing.assert_array_equal(one, two)


def test_no_photo_at_all(tmp_path):
  (tmp_path / "bad.jpg").write_bytes(b"")
  images, failures = data.decode(
    [tmp_path / "bad.jpg"], tmp_path / "s", size=100
  )
  assert images == [None] and len(failures) == 1


def test_a_photo_that_changes_is_another(paths):
  before = data.digest(paths)
  assert data.digest(paths) == before
  Image.new("RGB", (9, 9)).save(paths[1])
  assert data.digest(paths) != before
