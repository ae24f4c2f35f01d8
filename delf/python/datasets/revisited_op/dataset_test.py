import contextlib
import json
import os
import pickle
import zlib

import numpy as np
import pytest
import scipy.io

from delf.base import errors
from delf.formats import untrusted
from delf.python.datasets.revisited_op import dataset
from tests.stand_ins import npz

_LABELS = ("easy", "hard", "junk", "bbx")


def _mat(path, queries=2, images=6, easy=None, **more):
  """Writes a Matlab file; returns its path."""
  truth = np.zeros([1, queries], [(label, object) for label in _LABELS])
  for i in range(queries):
    truth["easy"][0, i] = np.array([[1.0, 3.0]] if easy is None else easy)
    truth["hard"][0, i] = np.array([[2.0]])
    truth["junk"][0, i] = np.zeros([0, 0])
    truth["bbx"][0, i] = np.array([[1.0, 2.0, 30.0, 40.0]])
  names = np.array([f"image_{i}" for i in range(images)], object)[None]
  variables = {
    "imlist": names,
    "qimlist": np.array([f"query_{i}" for i in range(queries)], object)[None],
    "gnd": truth,
  }
  scipy.io.savemat(path, variables | more)
  return path


def _pickle(path, protocol=2, **more):
  content = {
    "imlist": ["a", "b", "c", "d"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0, 2], "hard": np.array([1]), "junk": [],
             "bbx": [1, 2.5, 3, 4]}],
  } | more  # fmt: skip
  path.write_bytes(pickle.dumps(content, protocol))
  return path


@pytest.mark.parametrize("name", ["q5i60", "q3i20_nojunk", "q2i1"])
def test_matlab_files_are_read_as_the_original_reads_them(
  goldens, name, tmp_path
):
  arrays = npz.read(goldens / "metrics_revisited.npz")
  recorded = json.loads((goldens / "metrics_revisited.json").read_text())
  expected = recorded[f"read|{name}"]
  path = tmp_path / "gnd.mat"
  path.write_bytes(arrays[f"mat|{name}"].tobytes())
  queries, index, truth = dataset.ReadDatasetFile(str(path))
  assert queries == expected["query_list"]
  assert index == expected["index_list"]
  for found, wanted in zip(truth, expected["ground_truth"], strict=True):
    assert set(found) == set(wanted)
    for label, values in wanted.items():
      assert found[label].dtype == values["dtype"]
      assert list(found[label].shape) == values["shape"]
      np.testing.assert_array_equal(found[label], values["values"])


def test_a_file_of_one_query_is_read(goldens, tmp_path):
  data = npz.read(goldens / "metrics_revisited.npz")["mat|q1i20"]
  path = tmp_path / "gnd.mat"
  path.write_bytes(data.tobytes())
  queries, index, truth = dataset.ReadDatasetFile(path)
  assert queries == ["all_souls_000000"]
  assert len(index) == 20
  np.testing.assert_array_equal(truth[0]["hard"], [18, 3])


def test_one_photo_collection_reads_alike_from_matlab_and_json(shared_data):
  folder = shared_data / "mini_roxford5k"
  listed = json.loads((folder / "gnd.json").read_text())
  found = dataset.ReadDatasetFile(folder / "gnd_mini_roxford5k.mat")
  assert found[0] == listed["qimlist"]
  assert found[1] == listed["imlist"]
  for one, other in zip(found[2], listed["gnd"], strict=True):
    for label in ("easy", "hard", "junk"):
      np.testing.assert_array_equal(one[label], other[label])


@pytest.mark.parametrize("packed", [False, True])
def test_ids_start_at_0(packed, tmp_path):
  path = _mat(tmp_path / "gnd.mat", queries=1)
  if packed:
    variables = scipy.io.loadmat(path)
    for name in ("__header__", "__version__", "__globals__"):
      del variables[name]
    scipy.io.savemat(path, variables, do_compression=True)
  _, _, truth = dataset.ReadDatasetFile(path)
  np.testing.assert_array_equal(truth[0]["easy"], [0, 2])
  np.testing.assert_array_equal(truth[0]["bbx"], [1, 2, 30, 40])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_read(protocol, tmp_path):
  path = _pickle(tmp_path / "gnd.pkl", protocol)
  queries, index, truth = dataset.ReadDatasetFile(path)
  assert (queries, index) == (["q"], ["a", "b", "c", "d"])
  for label, expected in {"easy": [0, 2], "hard": [1], "junk": []}.items():
    assert truth[0][label].dtype == np.int64
    np.testing.assert_array_equal(truth[0][label], expected)
  np.testing.assert_array_equal(truth[0]["bbx"], [1, 2.5, 3, 4])


def test_ground_truth_that_is_not_graded_has_no_protocols():
  with pytest.raises(
    errors.InputError, match="query 1 has ok, junk, not easy and hard"
  ):
    dataset.ParseEasyMediumHardGroundTruth([{"ok": [1], "junk": []}])
  (easy,), _, (hard,) = dataset.ParseEasyMediumHardGroundTruth([{"easy": [1]}])
  assert (list(easy["ok"]), list(hard["junk"])) == ([1], [1])


def test_a_data_set_in_a_folder_is_described(tmp_path):
  _pickle(tmp_path / "gnd_rparis6k.pkl")
  config = dataset.CreateConfigForTestDataset("RParis6k", str(tmp_path))
  folder = os.path.join(tmp_path, "paris6k_images")
  assert config["dir_images"] == folder
  assert (config["n"], config["nq"]) == (4, 1)
  assert (config["ext"], config["qext"]) == (".jpg", ".jpg")
  assert config["im_fname"](config, 2) == os.path.join(folder, "c.jpg")
  assert config["qim_fname"](config, 0) == os.path.join(folder, "q.jpg")
  assert config["gnd"][0]["easy"] == [0, 2]
  assert config["dataset"] == "rparis6k"
  assert config["dir_data"] == str(tmp_path)
  assert config["gnd_fname"] == str(tmp_path / "gnd_rparis6k.pkl")
  with pytest.raises(errors.InputError, match="roxford5k, rparis6k"):
    dataset.CreateConfigForTestDataset("oxford5k", tmp_path)
  with pytest.raises(FileNotFoundError, match="gnd_roxford5k.pkl"):
    dataset.CreateConfigForTestDataset("roxford5k", tmp_path)


@pytest.mark.parametrize(
  ("easy", "received"),
  [([[7.0]], "6"), ([[1.5]], "0.5"), ([[np.nan]], "nan")],
)
def test_ground_truth_of_absent_images_is_refused(easy, received, tmp_path):
  path = _mat(tmp_path / "gnd.mat", easy=easy)
  with pytest.raises(errors.InputError) as error:
    dataset.ReadDatasetFile(path)
  assert "6 index images" in str(error.value)
  assert "query_0" in str(error.value)
  assert f"has id {received} (from 0)" in str(error.value)


@pytest.mark.parametrize(
  "more",
  [
    {"gnd": [{"easy": [4], "hard": [], "junk": []}]},
    {"gnd": [{"easy": ["a"], "hard": [], "junk": []}]},
    {"gnd": [{"easy": [], "bbx": [1, 2]}]},
    {"gnd": [{"easy": [], "bbx": "abcd"}]},
    {"gnd": [3]},
    {"gnd": []},
    {"gnd": 3},
    {"imlist": [1, 2, 3, 4]},
  ],
)
def test_pickles_that_are_no_ground_truth_are_refused(more, tmp_path):
  path = _pickle(tmp_path / "gnd.pkl", **more)
  with pytest.raises(errors.InputError, match="gnd.pkl"):
    dataset.ReadDatasetFile(path)


@pytest.mark.parametrize("place", ["easy", "bbx", "imlist"])
def test_lists_that_are_small_in_a_pickle_alone_are_refused(place, tmp_path):
  values = [0]
  for _ in range(60):  # 2**60 numbers, were they counted.
    values = [values, values]
  more = {"gnd": [{"easy": [], place: values}]}
  if place == "imlist":
    more = {"imlist": [values]}
  path = _pickle(tmp_path / "gnd.pkl", **more)
  with pytest.raises(errors.InputError, match="gnd.pkl"):
    dataset.ReadDatasetFile(path)


def test_matlab_files_that_are_none_are_refused(tmp_path):
  path = tmp_path / "gnd.mat"
  whole = _mat(path).read_bytes()
  cases = [b"", b"text", b"\0" * 500, whole[:200], whole[:-50], whole[:130]]
  for data in cases:
    path.write_bytes(data)
    with pytest.raises(errors.InputError, match="gnd.mat"):
      dataset.ReadDatasetFile(path)
  path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + whole[128:])
  with pytest.raises(errors.InputError, match="-v7"):
    dataset.ReadDatasetFile(path)


def test_matlab_files_of_other_contents_are_refused(tmp_path):
  path = tmp_path / "gnd.mat"
  scipy.io.savemat(path, {"imlist": [1]})
  with pytest.raises(errors.InputError, match="'imlist'"):
    dataset.ReadDatasetFile(path)
  _mat(path, gnd=np.ones([2]))
  with pytest.raises(errors.InputError, match="gnd.mat"):
    dataset.ReadDatasetFile(path)
  _mat(path, easy=[[0.0]])
  with pytest.raises(errors.InputError, match="gnd.mat"):
    dataset.ReadDatasetFile(path)


def test_damaged_bytes_of_a_matlab_file_end_in_one_line(tmp_path):
  path = tmp_path / "gnd.mat"
  whole = bytearray(_mat(path).read_bytes())
  generator = np.random.default_rng(1)
  for _ in range(300):
    data = whole.copy()
    data[generator.integers(128, len(data))] = generator.integers(256)
    path.write_bytes(data)
    with contextlib.suppress(errors.InputError):
      dataset.ReadDatasetFile(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(untrusted, "_MAX_UNPACKED", 2**20)
  path = tmp_path / "gnd.mat"
  header = _mat(path).read_bytes()[:128]
  packed = zlib.compress(bytes(2**21))
  tag = np.array([15, len(packed)], "<u4").tobytes()
  path.write_bytes(header + tag + packed)
  with pytest.raises(errors.InputError, match="unpacks to over"):
    dataset.ReadDatasetFile(path)


def test_a_file_of_too_many_cells_is_refused(tmp_path, monkeypatch):
  path = _mat(tmp_path / "gnd.mat", images=6)
  dataset.ReadDatasetFile(path)
  monkeypatch.setattr(untrusted, "_MAX_CELLS", 8)
  with pytest.raises(errors.InputError, match="more than 8 cells"):
    dataset.ReadDatasetFile(path)
