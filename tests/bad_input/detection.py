"""Rows of the table of bad input: detectors, and the boxes that they give."""

import contextlib
import io

import numpy as np
import PIL.Image

from delf.base import boxes
from delf.cli import main
from delf.python.examples import extract_boxes
from tests.stand_ins import tiny_detector

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}
# The same, of what is read; the words say what comes of it.
ODD = {}
_SCRIPT = "extract_boxes.py"
SCRIPTS = {_SCRIPT: extract_boxes}

_BOX = [0.1, 0.2, 0.6, 0.7]


def _case(what, *words, table=CASES):
  def register(make):
    table[what] = (make, words)
    return make

  return register


def _photo(folder):
  pixels = np.random.default_rng(0).integers(0, 256, [64, 80, 3])
  PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "a.png")


def _detect(folder, detector, *more):
  _photo(folder)
  words = ["--out", folder.parent / "out", "--detector", detector, *more]
  return ["detect", str(folder), *map(str, words)]


def _finding(folder, found, scores, classes=None, **options):
  """Returns arguments that detect with what finds these boxes everywhere."""
  find = tiny_detector.always(found, scores, classes)
  model = folder.parent / "detector"
  tiny_detector.save_function(model, find, **options)
  return _detect(folder, model, "--threshold", 0)


def _finds(what, *words, found=(_BOX,), scores=(0.9,), classes=None, **options):
  """Registers a detector that finds the same everywhere, which is refused."""

  def make(folder):
    return _finding(folder, found, scores, classes, **options)

  _case(what, "detector", *words)(make)


_finds("boxes of a detector in pixels", "not pixels", found=[[9, 8, 50, 70]])
_finds(
  "boxes of a detector with NaN",
  "nan",
  found=[_BOX, [0, 0, float("nan"), 1]],
  scores=[0.9, 0.8],
)
_finds("scores of a detector with NaN", "a.png", "nan", scores=[float("nan")])
_finds("classes of a detector that are none", "1.5", classes=[1.5])
_finds(
  "detector with other tensors",
  "detection_scores",
  "model has boxes, input_images, scores",
  names=("boxes", "scores"),
)
_finds(
  "detector of another input",
  "input_images",
  "model has detection_boxes",
  image="image_tensor",
)
_finds(
  "detector of three images at a time",
  "a.png",
  "(3, None, None, 3)",
  "[1, 64, 80, 3]",
  shape=(3, None, None, 3),
)


@_case("detector that extracts features", "detector", "input_image,")
def _extraction(folder):
  return _detect(folder, "delf-compact")


@_case("detector that is missing", "/nowhere/detector")
def _missing(folder):
  return _detect(folder, "/nowhere/detector")


@_case("name of no detector", "d2r_frcn", "d2r_frcnn")
def _unknown(folder):
  return _detect(folder, "d2r_frcn")


@_case("detector that is a codebook", "the codebook rparis6k_codebook_1024")
def _codebook(folder):
  return _detect(folder, "rparis6k_codebook_1024")


@_case("detector whose file is cut", "detector", "cannot be read")
def _cut(folder):
  argv = _finding(folder, [_BOX], [0.9])
  path = folder.parent / "detector" / "saved_model.pb"
  path.write_bytes(path.read_bytes()[:1000])
  return argv


@_case("boxes of a photo that is no image", "b.jpg")
def _no_image(folder):
  argv = _finding(folder, [_BOX], [0.9])
  (folder / "a.png").unlink()
  (folder / "b.jpg").write_text("A photo would be here.")
  return argv


@_case("boxes for a folder that is a file", "mine", "a file")
def _file(folder):
  (folder.parent / "mine").write_text("mine")
  argv = _finding(folder, [_BOX], [0.9])
  return [*argv, "--out", str(folder.parent / "mine")]


@_case("pictures below a file", "mine", "Not a directory")
def _below(folder):
  (folder.parent / "mine").write_text("mine")
  argv = _finding(folder, [_BOX], [0.9])
  return [*argv, "--pictures", str(folder.parent / "mine" / "pictures")]


@_case("boxes in a folder of those of another threshold", "0.5", "--overwrite")
def _other(folder):
  argv = _finding(folder, [_BOX], [0.9])
  words = [
    str(folder.parent / "boxes") if w.endswith("/out") else w for w in argv
  ]
  with contextlib.redirect_stdout(io.StringIO()):
    assert main.main(words) == 0
  return [*words, "--threshold", "0.5"]


@_case("pictures in a folder of those of another threshold", "0.5", "pictures")
def _other_pictures(folder):
  argv = _finding(folder, [_BOX], [0.9])
  pictures = str(folder.parent / "pictures")
  words = [*argv[:2], *argv[4:], "--pictures", pictures]
  said = io.StringIO()
  with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
    assert main.main(words) == 0
  return [*words, "--threshold", "0.5"]


@_case("script of boxes with a list that is missing", "no_list.txt")
def _no_list(folder):
  return [_SCRIPT, f"--list_images_path={folder}/no_list.txt"]


def _given(what, box, *words):
  """Registers a box that a user gives."""

  def make(folder):
    del folder
    return lambda: boxes.check([_BOX, box], "mine.csv")

  _case(what, "mine.csv", "number 2 of 2", *words)(make)


_given(
  "box that reaches out of the image", (0.1, 0.1, 1.5, 0.5), "inside", "1.5"
)
_given("box of no area", (0.5, 0.1, 0.5, 0.5), "no area")
_given("box whose corners are changed round", (0.5, 0.1, 0.2, 0.5), "no area")
_given("box with NaN", (0.5, float("nan"), 0.5, 0.5), "nan")
_given("box in pixels", (12, 10, 480, 640), "not pixels", "480")


# -- odd, but good -----------------------------------------------------------


def _odd(what, words, found, scores, **options):
  """Registers a detector that finds the same everywhere, which is read."""

  def make(folder):
    return [*_finding(folder, found, scores, **options), "--json"]

  _case(what, words, table=ODD)(make)


_odd(
  "box of a detector that reaches out of the image: cut off",
  "1 box: 0.1,0,1,0.7",
  [[0.1, -0.2, 1.5, 0.7]],
  [0.9],
)
_odd(
  "boxes of a detector beside the image, and of no area: dropped",
  "1 box: 0.1,0.2,0.6,0.7",
  [[1.1, 0.2, 1.5, 0.7], [0, 0, 0, 0], _BOX, [0.5, 0.2, 0.1, 0.7]],
  [0.9, 0.0, 0.8, 0.7],
)
_odd(
  "detector of images of one size: photos are scaled to it",
  "1 box: 0.1,0.2,0.6,0.7",
  [_BOX],
  [0.9],
  shape=(1, 9, 9, 3),
)
_odd("detector that finds nothing", "0 boxes", [], [])
_corners = np.random.default_rng(0).random([10_000, 2, 2])
_odd(
  "detector that finds 10 000 boxes",
  "10000 boxes",
  np.concatenate([_corners.min(1), _corners.max(1)], 1),
  np.linspace(1, 0, 10_000),
)
