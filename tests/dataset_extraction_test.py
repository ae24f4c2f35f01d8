"""Features of a data set's images, as the scripts of DELG and D2R take them.

The queries' boxes, the size limits and the files are compared with extraction
of images that Pillow has cropped.
"""

import contextlib
import io
import json
import pickle

import numpy as np
import PIL.Image
import pytest
from skimage import data

from delf.cli import scripts
from delf.formats import configs
from delf.inference import extractor
from delf.python import datum_io, feature_io
from delf.python.delg import extract_features
from delf.python.detect_to_retrieve import extract_query_features
from tests.stand_ins import tiny_model

_BOX = [60.5, 31.5, 259.2, 180.7]
_ROUNDED = (60, 32, 259, 181)
_LIMIT = 320


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
  path = tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")
  path.write_text(f"max_image_size: {_LIMIT}\n{path.read_text()}")
  return path


@pytest.fixture
def dataset(tmp_path):
  """Folder of `images/` and ground truth, of two queries, one with a box."""
  images = tmp_path / "images"
  images.mkdir()
  photo = PIL.Image.fromarray(data.astronaut()[:400])
  photo.save(images / "query_a.jpg")
  photo.resize((90, 70)).save(images / "query_b.jpg")
  photo.rotate(90).save(images / "index_a.jpg")
  photo.crop((99, 99, 400, 300)).save(images / "index_b.jpg")
  truth = {"easy": [0], "hard": [], "junk": [1]}
  content = {
    "imlist": ["index_a", "index_b"],
    "qimlist": ["query_a", "query_b"],
    "gnd": [truth | {"bbx": _BOX}, truth | {"bbx": [0, 0, 90, 70]}],
  }
  (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
  return tmp_path


def _run(script, folder, config_path, **flags):
  flags = {
    "delf_config_path": config_path,
    "dataset_file_path": folder / "gnd.pkl",
    "images_dir": folder / "images",
    "output_features_dir": folder / "out",
  } | flags
  argv = ["script", *(f"--{name}={value}" for name, value in flags.items())]
  out, err = io.StringIO(), io.StringIO()
  with (
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    pytest.raises(SystemExit) as end,
  ):
    scripts.run(script.main, script.define_flags, argv)
  return end.value.code or 0, out.getvalue(), err.getvalue()


def _pixels(path, box=None):
  with PIL.Image.open(path) as image:
    return np.asarray(image.crop(box) if box else image)


def _check_local(path, expected):
  read = feature_io.ReadFromFile(str(path))
  np.testing.assert_array_equal(read[0], expected.local.locations)
  np.testing.assert_array_equal(read[2], expected.local.descriptors)
  np.testing.assert_array_equal(read[3], expected.local.attention)


def _names(folder):
  return sorted(p.name for p in folder.iterdir() if p.suffix != ".jsonl")


def test_delg_queries_are_cropped_and_keep_their_scale(dataset, config_path):
  status, out, err = _run(extract_features, dataset, config_path)
  assert (status, err) == (0, "")
  assert "2 extracted" in out
  assert _names(dataset / "out") == [
    "extraction.json",
    *(f"query_{i}.delg_{kind}" for i in "ab" for kind in ("global", "local")),
  ]
  extract = extractor.make_extractor(
    configs.read_delf_config(config_path)
  ).extract
  path = dataset / "images" / "query_a.jpg"
  expected = extract(_pixels(path, _ROUNDED), 199 / 512)
  _check_local(dataset / "out" / "query_a.delg_local", expected)
  np.testing.assert_array_equal(
    datum_io.ReadFromFile(str(dataset / "out" / "query_a.delg_global")),
    expected.global_descriptor,
  )
  # 199 x 149 pixels of the photo become 124 x 93: it matters.
  other = extract(_pixels(path, _ROUNDED))
  assert len(other.local.scales) != len(expected.local.scales)
  whole = extract(_pixels(dataset / "images" / "query_b.jpg"))
  _check_local(dataset / "out" / "query_b.delg_local", whole)


def test_delg_index_images_are_whole(dataset, config_path):
  status, _, err = _run(
    extract_features, dataset, config_path, image_set="index"
  )
  assert (status, err) == (0, "")
  extract = extractor.make_extractor(
    configs.read_delf_config(config_path)
  ).extract
  for name in ("index_a", "index_b"):
    expected = extract(_pixels(dataset / "images" / f"{name}.jpg"))
    _check_local(dataset / "out" / f"{name}.delg_local", expected)
  assert len(_names(dataset / "out")) == 5


def test_d2r_queries_are_cropped_and_have_the_whole_limit(dataset, config_path):
  status, _, err = _run(extract_query_features, dataset, config_path)
  assert (status, err) == (0, "")
  assert _names(dataset / "out") == [
    "extraction.json",
    "query_a.delf",
    "query_b.delf",
  ]
  extract = extractor.make_extractor(
    configs.read_delf_config(config_path)
  ).extract
  path = dataset / "images" / "query_a.jpg"
  _check_local(
    dataset / "out" / "query_a.delf", extract(_pixels(path, _ROUNDED))
  )


@pytest.mark.parametrize("script", [extract_features, extract_query_features])
def test_a_missing_photo_is_named_and_the_run_can_be_repeated(
  script, dataset, config_path
):
  photo = dataset / "images" / "query_a.jpg"
  content = photo.read_bytes()
  photo.unlink()
  status, out, err = _run(script, dataset, config_path)
  assert status == 1
  assert err.count("\n") == 1 and "query_a.jpg" in err
  assert "1 extracted, 0 already there, 1 failed" in out
  photo.write_bytes(content)
  status, out, _ = _run(script, dataset, config_path)
  assert status == 0
  assert "1 extracted, 1 already there, 0 failed" in out


def test_another_box_is_done_again(dataset, config_path):
  _run(extract_features, dataset, config_path)
  content = pickle.loads((dataset / "gnd.pkl").read_bytes())
  content["gnd"][0]["bbx"] = [0, 0, 100, 100]
  (dataset / "gnd.pkl").write_bytes(pickle.dumps(content))
  _, out, _ = _run(extract_features, dataset, config_path)
  assert "1 extracted, 1 already there" in out


def test_a_real_query_with_its_box(shared_data, config_path, tmp_path):
  folder = shared_data / "mini_roxford5k"
  truth = json.loads((folder / "gnd.json").read_text())
  name, box = truth["qimlist"][0], truth["gnd"][0]["bbx"]
  images = tmp_path / "images"
  images.mkdir()
  # The only query of the set whose file is the whole photo.
  (images / f"{name}.jpg").symlink_to(folder / "jpg" / f"{name}.jpg")
  status, _, err = _run(
    extract_features,
    tmp_path,
    config_path,
    dataset_file_path=folder / "gnd_mini_roxford5k.mat",
  )
  assert status == 1
  assert err.count("\n") == len(truth["qimlist"]) - 1
  rounded = tuple(round(x) for x in box)
  pixels = _pixels(folder / "jpg" / f"{name}.jpg")
  part = _pixels(folder / "jpg" / f"{name}.jpg", rounded)
  assert part.shape[:2] == (rounded[3] - rounded[1], rounded[2] - rounded[0])
  factor = max(part.shape[:2]) / max(pixels.shape[:2])
  assert factor < 1
  expected = extractor.make_extractor(
    configs.read_delf_config(config_path)
  ).extract(part, factor)
  _check_local(tmp_path / "out" / f"{name}.delg_local", expected)
