"""Rows of the table of bad input: regions of index images, and their search."""

import contextlib
import io
import pickle

import numpy as np
import PIL.Image

from delf.cli import main
from delf.embedded import samples
from delf.python import box_io
from delf.python.detect_to_retrieve import extract_index_boxes_and_features

# Name of a script -> its module.
_NAME = "extract_index_boxes_and_features.py"
SCRIPTS = {_NAME: extract_index_boxes_and_features}
# What -> (function of a folder and a model, words that the line must have).
CASES = {}

_WHOLE = [0.0, 0.0, 1.0, 1.0]


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _photo(folder):
  """Writes one photo; returns its path."""
  pixels = np.random.default_rng(0).integers(0, 256, [64, 80, 3])
  path = folder / "a.jpg"
  PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)
  return path


def _script(folder, model, **flags):
  """Returns the arguments that extract the regions of one photo."""
  _photo(folder)
  truth = [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 9, 9]}]
  content = {"imlist": ["a"], "qimlist": ["q"], "gnd": truth}
  (folder.parent / "gnd.pkl").write_bytes(pickle.dumps(content))
  samples.write_detector(folder.parent / "detector")
  flags = {
    "delf_config_path": model / "config.pbtxt",
    "detector_model_dir": folder.parent / "detector",
    "dataset_file_path": folder.parent / "gnd.pkl",
    "images_dir": folder,
    "output_features_dir": folder.parent / "out",
    "output_boxes_dir": folder.parent / "boxes",
    "output_index_mapping": folder.parent / "mapping.csv",
  } | flags
  return [_NAME, *(f"--{k}={v}" for k, v in flags.items())]


def _of_boxes(what, box, *words):
  """A row for a photo whose file of boxes has one that cannot be."""

  def make(folder, model):
    path = folder.parent / "boxes" / "a.boxes"
    box_io.WriteToFile(path, np.array([_WHOLE, box]), [0.9, 0.8], [1, 1])
    return _script(folder, model)

  CASES[what] = (make, ("a.jpg", "a.boxes", *words))


_of_boxes("boxes of a photo in pixels", [10, 10, 60, 70], "[0, 1]", "60")
_of_boxes("boxes of a photo with NaN", [0, np.nan, 1, 1], "nan")


@_case("regions: no detector", "nowhere", "neither a folder")
def _no_detector(folder, model):
  return _script(folder, model, detector_model_dir=folder / "nowhere")


@_case("regions: threshold that is no number", "finite number", "nan")
def _threshold(folder, model):
  return _script(folder, model, detector_thresh="nan")


@_case("regions: the mapping is a folder", "is a folder")
def _mapping(folder, model):
  return _script(folder, model, output_index_mapping=folder)


@_case("index --regions: features in place of photos", "photos", "features")
def _features(folder, model):
  (folder / "a.delf").write_bytes(b"")
  out = str(folder.parent / "my.index")
  return ["index", str(folder), "--out", out, "--regions"]


@_case("index --regions: no detector", "nowhere", "neither a folder")
def _index_detector(folder, model):
  _photo(folder)
  argv = ["index", folder, "--out", folder.parent / "my.index"]
  argv += [
    "--config",
    model / "config.pbtxt",
    "--regions",
    "--detector",
    "nowhere",
  ]
  return list(map(str, argv))


@_case(
  "index --regions: detector that extracts features",
  "a detector needs the tensors",
  "delf-compact",
)
def _index_extraction(folder, model):
  _photo(folder)
  argv = ["index", folder, "--out", folder.parent / "my.index"]
  argv += ["--config", model / "config.pbtxt"]
  argv += ["--regions", "--detector", "delf-compact"]
  return list(map(str, argv))


@_case("index --regions: threshold that is no number", "finite", "nan")
def _index_threshold(folder, model):
  _photo(folder)
  argv = ["index", folder, "--out", folder.parent / "my.index"]
  argv += [
    "--config",
    model / "config.pbtxt",
    "--regions",
    "--detector-threshold",
    "nan",
  ]
  return list(map(str, argv))


def _asked(what, box, *words):
  """A row for a search with a part of a photo that cannot be."""

  def make(folder, model):
    photo, out = _photo(folder), folder.parent / "my.index"
    argv = ["index", photo, "--out", out, "--config", model / "config.pbtxt"]
    with contextlib.redirect_stdout(io.StringIO()):
      assert main.main(list(map(str, argv))) == 0
    return ["search", str(out), str(photo), f"--box={box}"]

  CASES[what] = (make, words)


_IMAGE = ("a.jpg", "in an image of 80 x 64 pixels")
_asked("search --box outside the photo", "100,0,140,40", *_IMAGE, "100")
_asked("search --box of no area", "9,9,9,30", *_IMAGE, "9.0, 9.0, 9.0")
_asked("search --box whose corners are changed round", "60,40,20,10", *_IMAGE)
_asked("search --box far larger than the photo", "0,0,99999,64", *_IMAGE)
_asked("search --box with NaN", "nan,0,40,40", "in pixels", "nan")
_asked(
  "search --box in shares of the photo",
  "0.2,0.2,0.9,1",
  "a.jpg",
  "is in shares of an image of 80 x 64 pixels",
  "shares",
)
