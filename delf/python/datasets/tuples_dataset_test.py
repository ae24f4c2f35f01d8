import math
import pickle

import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.python.datasets.sfm120k import sfm120k
from delf.records import tuples


def _net(images):
  """Describes an image by the mean of each channel."""
  mean = np.asarray(images).mean(axis=(1, 2)) + 128
  return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.fixture
def root(tmp_path):
  """A data set of 8 clusters of 3 photos, two of which are for validation."""
  random = np.random.default_rng(0)
  groups = []
  for cluster in range(8):
    color, paths = random.integers(30, 220, 3), []
    for number in range(3):
      path = tmp_path / "photos" / f"{cluster}" / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      shade = tuple(int(v) for v in color + random.integers(-9, 9, 3))
      Image.new("RGB", (24, 20), shade).save(path)
      paths.append(str(path))
    groups.append((str(cluster), paths))
  assert tuples.groups_of_folder(tmp_path / "photos") == [
    (str(tmp_path / "photos" / name), paths) for name, paths in groups
  ]
  counts = tuples.write_tuples(
    groups, sfm120k.NAME, tmp_path, validation_share=0.25
  )
  assert counts["train"] == {"photos": 18, "clusters": 6, "pairs": 24}
  assert counts["val"] == {"photos": 6, "clusters": 2, "pairs": 8}
  return tmp_path


def _train(root, **options):
  options = {"num_negatives": 3, "num_queries": 10, "pool_size": 15} | options
  return sfm120k.CreateDataset("train", str(root), **options)


def test_tuples_are_of_one_object_and_of_others(root):
  data = _train(root)
  assert len(data) == 0
  distance = data.create_epoch_tuples(_net)
  assert len(data) == 10
  for query, positive, negatives in zip(
    data.qidxs, data.pidxs, data.nidxs, strict=True
  ):
    assert data.clusters[query] == data.clusters[positive]
    assert query != positive
    others = data.clusters[negatives].tolist()
    assert len(set(others)) == 3
    assert data.clusters[query] not in others
  *images, target = data[0]
  assert [image.shape for image in images] == [(20, 24, 3)] * 5
  assert target.tolist() == [-1, 1, 0, 0, 0]
  vectors = {
    i: _net(data._loader(data.images[i], None)[None])[0]
    for i in range(len(data.images))
  }
  mean = np.mean(
    [
      np.linalg.norm(vectors[q] - vectors[n])
      for q, ns in zip(data.qidxs, data.nidxs, strict=True)
      for n in ns
    ]
  )
  np.testing.assert_allclose(distance, mean, atol=1e-4)
  assert [len(each) for each in data] == [6] * 10


def test_draws_depend_on_seed_and_epoch_alone(root):
  first, again, other = _train(root), _train(root), _train(root, seed=1)
  first.create_epoch_tuples(_net)
  one = first.qidxs
  first.create_epoch_tuples(_net)
  assert first.qidxs.tolist() != one.tolist()
  again.create_epoch_tuples(_net, epoch=1)
  np.testing.assert_array_equal(first.qidxs, again.qidxs)
  np.testing.assert_array_equal(first.nidxs, again.nidxs)
  other.create_epoch_tuples(_net, epoch=1)
  assert other.qidxs.tolist() != again.qidxs.tolist()


def test_all_queries_and_no_negatives(root):
  data = _train(root, num_queries=math.inf, pool_size=math.inf)
  data.create_epoch_tuples(_net)
  assert len(data) == 24
  data = _train(root, num_negatives=0)
  assert data.create_epoch_tuples(_net) == 0
  assert len(data[3]) == 3


def test_small_blocks_give_the_same(root, monkeypatch):
  whole, parts = _train(root), _train(root)
  whole.create_epoch_tuples(_net)
  monkeypatch.setattr(tuples, "BLOCK_SIZE", 4)
  parts.create_epoch_tuples(_net)
  np.testing.assert_array_equal(whole.nidxs, parts.nidxs)


def test_images_that_cannot_be_read_are_left_out(root, caplog):
  data = _train(root, pool_size=math.inf, num_queries=math.inf)
  bad = int(data.query_pool[0])
  with open(data.images[bad], "wb") as file:
    file.write(b"no photo")
  data.create_epoch_tuples(_net)
  assert bad not in data.qidxs
  assert bad not in data.nidxs
  assert data.images[bad] in caplog.text


def test_too_few_clusters(root):
  data = _train(root, num_negatives=6)
  with pytest.raises(errors.InputError, match="5 other clusters"):
    data.create_epoch_tuples(_net)


def test_options_that_cannot_be(root):
  with pytest.raises(errors.InputError, match="'train' or 'val'"):
    sfm120k.CreateDataset("test", str(root))
  with pytest.raises(errors.InputError, match="num_negatives"):
    _train(root, num_negatives=-1)
  with pytest.raises(errors.InputError, match="num_queries"):
    _train(root, num_queries=0.5)
  with pytest.raises(FileNotFoundError, match="val-eccv2020.pkl"):
    sfm120k.CreateDataset("val", str(root), eccv2020=True)
  with pytest.raises(errors.InputError, match="create_epoch_tuples"):
    _train(root)[0]
  with pytest.raises(errors.InputError, match="18 images"):
    _train(root).set_tuples([1], [99], [[1, 2, 3]])


def test_name_of_a_file():
  image_id = "0123456789abcdef"
  assert sfm120k.id2filename(image_id, "ims") == f"ims/ef/cd/ab/{image_id}"
  for prefix in (None, ""):
    assert sfm120k.id2filename(image_id, prefix) == f"ef/cd/ab/{image_id}"


_GOOD = {
  "cids": ["aaaaaa", "bbbbbb"],
  "cluster": [0, 1],
  "qidxs": [0],
  "pidxs": [1],
}


def _read(tmp_path, change, mode="train"):
  path = tmp_path / "db.pkl"
  path.write_bytes(pickle.dumps({"train": _GOOD | change}))
  return tuples.read_pairs(path, mode)


def test_ids_and_arrays_are_read_too(tmp_path):
  names = np.array(["aaaaaa", "bbbbbb"])
  change = {"ids": names, "cluster": np.array([4, 5], np.uint8)}
  path = tmp_path / "db.pkl"
  content = _GOOD | change
  del content["cids"]
  path.write_bytes(pickle.dumps({"val": content}))
  found = tuples.read_pairs(path, "val")
  assert found.names == ["aaaaaa", "bbbbbb"]
  assert found.clusters.tolist() == [4, 5]
  path.write_bytes(pickle.dumps(_GOOD))
  assert tuples.read_pairs(path).queries.tolist() == [0]


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"cids": []}, "'cids' must be a list"),
    ({"cids": 7}, "a int"),
    ({"cids": ["aaaaaa", "../../etc/passwd"]}, "passwd"),
    ({"cids": ["aaaaaa", "a"]}, "6 or more characters"),
    ({"cids": ["aaaaaa", 7]}, "7 is not an image name"),
    ({"cluster": [0]}, "1 values for 2 images"),
    ({"cluster": ["a", "b"]}, "integers"),
    ({"qidxs": [2]}, "0 to 1"),
    ({"pidxs": [-1]}, "-1"),
    ({"pidxs": []}, "1 and 0"),
    ({"pidxs": [[0], [0, 1]]}, "integers"),
  ],
)
def test_files_of_another_shape(tmp_path, change, words):
  with pytest.raises(errors.InputError, match=words) as caught:
    _read(tmp_path, change)
  assert "db.pkl" in str(caught.value)
  assert "\n" not in str(caught.value)


def test_files_without_the_mode_or_a_list(tmp_path):
  with pytest.raises(errors.InputError, match="mode 'val'.*'train'"):
    _read(tmp_path, {}, "val")
  path = tmp_path / "db.pkl"
  path.write_bytes(pickle.dumps([1]))
  with pytest.raises(errors.InputError, match="a list instead of a dict"):
    tuples.read_pairs(path, "train")
  path.write_bytes(pickle.dumps({"train": {"cids": ["aaaaaa"]}}))
  with pytest.raises(errors.InputError, match="'qidxs'"):
    tuples.read_pairs(path, "train")


def test_groups_of_a_table(tmp_path):
  table = tmp_path / "train.csv"
  table.write_text("id,url,landmark_id\n1,a/b.jpg,4\n2,c.jpg,5\n3,d.jpg,4\n")
  assert tuples.groups_of_csv(table, "x") == [
    ("4", ["x/a/b.jpg", "x/d.jpg"]),
    ("5", ["x/c.jpg"]),
  ]
  table.write_text("id,url\n1,a\n")
  with pytest.raises(errors.InputError, match="landmark_id"):
    tuples.groups_of_csv(table, "x")
  with pytest.raises(errors.InputError, match="two photos"):
    tuples.write_tuples(
      [("a", [str(table)])], "b", tmp_path, say=lambda _: None
    )


def test_a_photo_that_cannot_be_read_is_left_out(tmp_path):
  paths = [tmp_path / f"{i}.png" for i in range(4)]
  for path, color in zip(paths[:2], ("red", "blue"), strict=True):
    Image.new("RGB", (8, 8), color).save(path)
  paths[2].write_bytes(b"no image")
  said = []
  options = {"validation_share": 0, "say": said.append}
  groups = [("a", list(map(str, paths)))]
  counts = tuples.write_tuples(groups, "b", tmp_path, **options)
  assert counts["train"] == {"photos": 2, "clusters": 1, "pairs": 2}
  assert len(said) == 2
  assert "2.png" in said[0] and "3.png" in said[1]
  with pytest.raises(errors.InputError, match="--overwrite.*b.pkl"):
    tuples.write_tuples(groups, "b", tmp_path, **options)
