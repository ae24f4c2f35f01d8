"""Rows of the table of bad input: scripts of data sets, and downloads."""

import io
import pickle
import tarfile

import numpy as np
import PIL.Image

from delf.python.delg import extract_features, measure_latency
from delf.python.detect_to_retrieve import extract_query_features

# What -> (function of a folder and of a model that returns the arguments of a
# script or of the command, words that the line must have).
CASES = {}
SCRIPTS = {
  "delg/extract_features.py": extract_features,
  "extract_query_features.py": extract_query_features,
  "measure_latency.py": measure_latency,
}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _photo(path):
  """Writes an image of noise, 80 x 64 pixels; returns its path."""
  pixels = np.random.default_rng(1).integers(0, 256, [64, 80, 3], np.uint8)
  PIL.Image.fromarray(pixels).save(path)
  return path


def _dataset(
  folder, model, script="delg/extract_features.py", box=None, **flags
):
  """Returns the arguments of a script that extracts a data set's query."""
  _photo(folder / "a.jpg")
  box = [0.0, 0.0, 40.0, 40.0] if box is None else box
  labels = {"easy": [0], "hard": [], "junk": [], "bbx": box}
  content = {"imlist": ["a"], "qimlist": ["a"], "gnd": [labels]}
  (folder.parent / "gnd.pkl").write_bytes(pickle.dumps(content))
  flags = {
    "delf_config_path": model / "config.pbtxt",
    "dataset_file_path": folder.parent / "gnd.pkl",
    "images_dir": folder,
    "output_features_dir": folder.parent / "out",
  } | flags
  return [script] + [f"--{k}={v}" for k, v in flags.items()]


@_case("data set without its ground truth", "nowhere.mat")
def _no_truth(folder, model):
  return _dataset(folder, model, dataset_file_path="nowhere.mat")


@_case("ground truth that is a photo", "a.jpg")
def _truth_photo(folder, model):
  return _dataset(folder, model, dataset_file_path=folder / "a.jpg")


@_case("data set without its photos", "nowhere")
def _no_photos(folder, model):
  return _dataset(folder, model, images_dir=folder / "nowhere")


@_case("query whose photo is missing", "a.jpg")
def _no_photo(folder, model):
  argv = _dataset(folder, model)
  (folder / "a.jpg").unlink()
  return argv


@_case("query with a box beside its photo", "a.jpg", "80 x 64")
def _box_beside(folder, model):
  return _dataset(folder, model, box=[100.0, 0.0, 140.0, 40.0])


@_case("query with an empty box", "a.jpg", "80 x 64")
def _box_empty(folder, model):
  return _dataset(
    folder, model, "extract_query_features.py", box=[9.0, 9.0, 9.0, 9.0]
  )


@_case("query with a box that would fill the memory", "80 x 64")
def _box_huge(folder, model):
  return _dataset(folder, model, box=[0.0, 0.0, 1e8, 1e8])


@_case("ground truth with NaN in a box", "bbx")
def _box_nan(folder, model):
  return _dataset(folder, model, box=[0.0, 0.0, float("nan"), 9.0])


@_case("query whose name leads out of the folder", "../a")
def _name_outside(folder, model):
  argv = _dataset(folder, model)
  path = folder.parent / "gnd.pkl"
  content = pickle.loads(path.read_bytes()) | {"qimlist": ["../a"]}
  path.write_bytes(pickle.dumps(content))
  return argv


@_case("Detect-to-Retrieve without local features", "use_local_features")
def _d2r_global(folder, model):
  config = folder.parent / "changed.pbtxt"
  text = (model / "config.pbtxt").read_text()
  config.write_text(f"use_local_features: false\n{text}")
  return _dataset(
    folder, model, "extract_query_features.py", delf_config_path=config
  )


def _latency(folder, model, photo, **flags):
  flags |= {
    "delf_config_path": model / "config.pbtxt",
    "list_images_path": folder.parent / "list.txt",
  }
  (folder.parent / "list.txt").write_text(f"{photo}\n")
  return ["measure_latency.py"] + [f"--{k}={v}" for k, v in flags.items()]


@_case("latency of no repeats", "at least 1 repeat")
def _latency_zero(folder, model):
  return _latency(folder, model, _photo(folder / "a.png"), repeat_per_image=0)


@_case("latency of a photo that is missing", "nowhere.jpg")
def _latency_missing(folder, model):
  return _latency(folder, model, folder / "nowhere.jpg")


def _distractors(folder, members):
  """Returns the arguments that take one archive from a local folder."""
  (folder / "revisitop1m.txt").write_text("a.jpg\n")
  with tarfile.open(folder / "revisitop1m.1.tar.gz", "w:gz") as archive:
    for info in members:
      archive.addfile(info, io.BytesIO(bytes(info.size)))
  out = folder.parent / "data"
  return ["download", "revisited-1m", "--parts", "1"] + [
    *("--mirror", str(folder), "--out", str(out))
  ]


def _member(name, size=100, **fields):
  info = tarfile.TarInfo(name)
  info.size = size
  for field, value in fields.items():
    setattr(info, field, value)
  return info


@_case("download of an unknown data set", "roxford5k")
def _download_unknown(folder, model):
  return ["download", "oxford"]


@_case("download of gldv2 without a split", "--split")
def _download_no_split(folder, model):
  return ["download", "gldv2"]


@_case("download of a part that there is not", "from 0 to 19")
def _download_part(folder, model):
  return ["download", "gldv2", "--split", "test", "--parts", "20"]


@_case("download with a mirror that is none", "nowhere")
def _download_mirror(folder, model):
  return ["download", "revisited-1m", "--mirror", str(folder / "nowhere")]


@_case("archive with a member that leads out of it", "../evil.jpg")
def _download_escape(folder, model):
  return _distractors(folder, [_member("a.jpg"), _member("../evil.jpg")])


@_case("archive with a link", "evil.jpg", "a link")
def _download_link(folder, model):
  link = _member("evil.jpg", 0, type=tarfile.SYMTYPE, linkname="/etc/passwd")
  return _distractors(folder, [_member("a.jpg"), link])


@_case("archive that is cut", "revisitop1m.1.tar.gz", "whole")
def _download_cut(folder, model):
  argv = _distractors(folder, [_member("a.jpg", 9000)])
  path = folder / "revisitop1m.1.tar.gz"
  path.write_bytes(path.read_bytes()[:-20])
  return argv


@_case("archive without photos", "*.jpg")
def _download_empty(folder, model):
  return _distractors(folder, [_member("a.txt")])
