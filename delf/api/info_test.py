import json
import pathlib
import tarfile

import numpy as np
import PIL.Image
import pytest

from delf.api import info
from delf.base import errors
from delf.cli import main
from delf.indexes import dense, inverted
from delf.python import box_io, datum_io, feature_io


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


_SAMPLES = pathlib.Path(info.__file__).resolve().parents[1] / "python"


def _describe(path):
  found = info.info(path)
  json.dumps(found)  # Plain values only.
  assert found.pop("path") == str(path)
  return found


def test_local_features(tmp_path):
  path = tmp_path / "a.delf"
  feature_io.WriteToFile(
    str(path),
    np.array([[1.0, 20.0], [3.0, 40.0]]),
    np.array([0.5, 2.0]),
    np.array([[3.0, 4.0], [0.0, 1.0]]),
    np.array([7.0, 9.0]),
  )
  found = _describe(path)
  assert found["features"] == 2
  assert found["dimensions"] == 2
  assert found["y_pixels"] == [1, 3]
  assert found["x_pixels"] == [20, 40]
  assert found["scale"] == [0.5, 2]
  assert found["strength"] == [7, 9]
  assert found["descriptor_norm"] == [1, 5]
  assert found["bytes"] == path.stat().st_size


def test_no_features(tmp_path):
  path = tmp_path / "a.delg_local"
  path.write_bytes(b"")
  found = _describe(path)
  assert found["features"] == 0
  assert found["strength"] == []


def test_global_descriptor_and_datum(tmp_path):
  path = tmp_path / "a.delg_global"
  datum_io.WriteToFile(np.array([3, 4], np.float32), str(path))
  found = _describe(path)
  assert found["kind"] == "global descriptor"
  assert found["shape"] == [2]
  assert found["norm"] == 5
  path = tmp_path / "a.datum"
  datum_io.WriteToFile(np.array([[1, np.nan]], np.float32), str(path))
  found = _describe(path)
  assert found["shape"] == [1, 2]
  assert found["value"] == [1, 1]
  assert not found["finite"]


def test_boxes(tmp_path):
  path = tmp_path / "a.boxes"
  boxes = np.array([[0.1, 0.2, 0.5, 0.75]])
  box_io.WriteToFile(str(path), boxes, np.array([0.5]), np.array([3]))
  found = _describe(path)
  assert found["boxes"] == 1
  assert found["classes"] == [3]
  assert found["y"] == [0.1, 0.5]
  assert found["x"] == [0.2, 0.75]


def test_aggregated(tmp_path):
  path = tmp_path / "a.vlad"
  datum_io.WriteToFile(np.ones([6], np.float32), str(path))
  assert _describe(path)["shape"] == [6]
  path = tmp_path / "a.rasmk_star"
  datum_io.WritePairToFile(
    np.array([[255], [3]], np.uint8), np.array([2, 40], np.uint32), str(path)
  )
  found = _describe(path)
  assert found["visual_words"] == 2
  assert found["word"] == [2, 40]
  assert found["packed_bits"]
  assert found["descriptors"]["shape"] == [2, 1]


def test_configurations():
  found = _describe(_SAMPLES / "delg" / "r50delg_gld_config.pbtxt")
  assert found["kind"] == "configuration of extraction"
  assert found["settings"]["image_scales"][1] == 0.35355338
  assert found["settings"]["delf_global_config"]["image_scales_ind"] == [
    3,
    4,
    5,
  ]
  path = _SAMPLES / "detect_to_retrieve" / "index_aggregation_config.pbtxt"
  found = _describe(path)
  assert found["kind"] == "configuration of aggregation"
  assert found["settings"]["codebook_size"] == 65536


def test_image(tmp_path):
  path = tmp_path / "a.png"
  PIL.Image.new("L", (30, 20), 7).save(path)
  found = _describe(path)
  assert (found["height_pixels"], found["width_pixels"]) == (20, 30)
  assert found["mode"] == "L"
  assert found["rgb_mean"] == [7, 7, 7]


def test_saved_model_and_checkpoint(tmp_path):
  tf = pytest.importorskip("tensorflow")

  class Model(tf.Module):
    def __init__(self):
      super().__init__()
      self.weight = tf.Variable(tf.ones([3, 4]), name="weight")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="input_image")])
    def __call__(self, x):
      return {"features": x @ self.weight}

  model = Model()
  tf.saved_model.save(model, str(tmp_path / "model"), signatures=model.__call__)
  found = _describe(tmp_path / "model")
  assert found["kind"] == "SavedModel"
  signature = found["signatures"]["serving_default"]
  assert signature["inputs"] == {"input_image": "float [?, 3]"}
  assert signature["outputs"] == {"features": "float [?, 4]"}
  assert found["variables"] == 1
  assert found["parameters"] == 12
  assert _describe(tmp_path / "model" / "saved_model.pb")["variables"] == 1
  prefix = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt" / "c"))
  for path in (
    pathlib.Path(prefix),
    pathlib.Path(prefix + ".index"),
    tmp_path / "ckpt",
  ):
    found = _describe(path)
    assert found["newest"] == "c-1"
    key = "model/weight/.ATTRIBUTES/VARIABLE_VALUE"
    assert found["keys"][key] == "float32 [3, 4]"
  pathlib.Path(prefix + ".index").write_bytes(b"no index")
  with pytest.raises(errors.InputError, match="checkpoint"):
    info.info(prefix)


def test_files_of_the_original(shared_data, goldens, tmp_path):
  paths = sorted((shared_data / "delf_v1_outputs").glob("*.delf"))[:3]
  assert paths
  for path in paths:
    assert _describe(path)["features"] > 0
  archive = goldens / "original" / "export_local_and_global.tar.xz"
  with tarfile.open(archive) as content:
    content.extractall(tmp_path, filter="data")
  (model,) = tmp_path.rglob("saved_model.pb")
  found = _describe(model.parent)
  outputs = found["signatures"]["serving_default"]["outputs"]
  assert {"features", "global_descriptors"} <= set(outputs)
  assert found["parameters"] > 0


@pytest.mark.parametrize(
  ("name", "content", "words"),
  [
    ("a.delf", b"\x0a\xff\x01", "a.delf"),
    ("a.datum", b"\x0a\xff\x01", "a.datum"),
    ("a.boxes", b"\x0a\xff\x01", "a.boxes"),
    ("a.asmk", b"\x0a\xff\x01", "a.asmk"),
    ("a.jpg", b"no image", "a.jpg"),
    ("a.pbtxt", b"no_such_field: 3", "no_such_field"),
    ("a.xyz", b"", "SavedModel"),
    ("saved_model.pb", b"\xff\xff", "SavedModel"),
    ("missing.delf", None, "missing.delf"),
    ("missing", None, "missing"),
  ],
)
def test_what_cannot_be_read(tmp_path, name, content, words):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  with pytest.raises((errors.InputError, FileNotFoundError), match=words):
    info.info(tmp_path / name)


def test_a_folder_of_neither_kind(tmp_path):
  with pytest.raises(errors.InputError, match="neither"):
    info.info(tmp_path)


def test_inverted_index(tmp_path):
  path = tmp_path / "photos.index"
  options = inverted.AsmkOptions(dimension=16, codebook_size=9, tau=0.25)
  index = inverted.InvertedIndex(options, {"codebook": "c"})
  index.save(path)
  assert _describe(path)["images"] == 0
  bits = np.zeros([3, 2], np.uint8)
  index.add(["a.jpg", "b.jpg"], [(bits, [1, 2, 8]), (bits[:1], [2])])
  index.save(path)
  found = _describe(path)
  assert found["kind"] == "inverted index"
  assert (found["images"], found["first"], found["last"]) == (
    2,
    "a.jpg",
    "b.jpg",
  )
  assert found["words_of_an_image"] == [1, 3]
  assert found["settings"]["options"]["tau"] == 0.25
  assert found["settings"]["metadata"] == {"codebook": "c"}
  assert found["arrays"]["descriptors"] == "uint8 [4, 2]"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(errors.InputError, match="photos.index.*whole index"):
    info.info(path)


def test_dense_index(tmp_path):
  index = dense.DenseIndex()
  index.add(["a"], np.ones([1, 3], np.float32))
  index.save(tmp_path / "a")
  found = _describe(tmp_path / "a")
  assert (found["kind"], found["images"]) == ("dense index", 1)
