"""Rows of the table of bad input: `delf train-detector`."""

import numpy as np
import PIL.Image

# What -> (function of a folder and a model that returns arguments, words).
CASES = {}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _train(folder, *rows, head="image_id,box", photos=10, more=()):
  """Writes photos and a CSV file; returns the arguments."""
  generator = np.random.default_rng(3)
  for i in range(photos):
    pixels = generator.integers(0, 256, [40, 50, 3], dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(folder / f"p{i}.png")
  boxes = folder.parent / "boxes.csv"
  rows = [*(f"p{i},0.1 0.1 0.9 0.9" for i in range(9)), *rows]
  boxes.write_text("\n".join([head, *rows]))
  out = folder.parent / "out"
  words = ["train-detector", boxes, folder, "--out", out, "--steps", 2, *more]
  return list(map(str, words))


@_case("a box in pixels to train a detector on", "line 11", "not pixels")
def _pixels(folder, model):
  return _train(folder, "p9,10 20 300 400")


@_case("a box with NaN to train a detector on", "line 11", "in [0, 1]")
def _nan(folder, model):
  return _train(folder, "p9,nan 0 1 1")


@_case("a box of no area to train a detector on", "line 11", "no area")
def _no_area(folder, model):
  return _train(folder, "p9,0.5 0 0.5 1")


@_case("a box outside the photo", "line 11", "inside the image")
def _outside(folder, model):
  return _train(folder, "p9,0.5 0 1.5 1")


@_case("boxes of too few photos", "at least 10", "boxes.csv")
def _few(folder, model):
  return _train(folder)


@_case("a CSV file of something else", "image_id,box", "boxes.csv")
def _other(folder, model):
  return _train(folder, "p9,0 0 1 1", head="id,url,landmark_id")


@_case("a detector to begin with that is none", "a folder", "no_such")
def _no_start(folder, model):
  return _train(folder, "p9,0 0 1 1", more=["--from", "no_such"])


@_case(
  "an extraction model to begin a detector with",
  "not a detector of this library",
)
def _extraction(folder, model):
  return _train(folder, "p9,0 0 1 1", more=["--from", model])
