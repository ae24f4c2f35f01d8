"""How well a detector finds landmarks, on photos of Oxford.

`python -m benchmarks.landmark_boxes` runs a detector (`--detector NAME|PATH`)
on the index photos of `mini_roxford5k` in which the object of a query is
outlined (`query_regions.json`), and compares its boxes with those around the
outlines: recall and precision at an overlap of 0.5. Beside it are the whole
image, and a box in the middle: as large as the median one of those that the
embedded detector was trained on, and, which only these photos could tell, as
the median one of the objects themselves. Nothing is chosen on these photos.
"""

import argparse
import collections
import json
import pathlib
import sys

import numpy as np

from benchmarks.shared import photo_pairs
from delf.base import boxes, errors
from delf.inference import zoo
from delf.python import utils

# Outlines of one object for two queries overlap by this or more.
_SAME = 0.9


def regions(data, quick=False):
  """Read the boxes of outlined objects.

  Args:
    data: pathlib.Path of the sets.
    quick: Whether to read only some photos.

  Returns:
    dict from photo (path) to boxes [M, 4] float (ymin, xmin, ymax, xmax) in
    [0, 1]: one box around all outlines of an object; an object of two queries
    counts once.
  """
  folder = data / "mini_roxford5k"
  found = collections.defaultdict(list)
  for each in json.loads((folder / "query_regions.json").read_text()):
    points = np.concatenate([np.array(p, float) for p in each["polygons"]])
    size = np.array([each["width"], each["height"]], float)
    low, high = (np.clip(f(0) / size, 0, 1) for f in (points.min, points.max))
    box = np.concatenate([low[::-1], high[::-1]])
    others = found[folder / "jpg" / f"{each['image']}.jpg"]
    if boxes.iou(box, others).max(initial=0) < _SAME:
      others.append(box)
  kept = list(found.items())[: 12 if quick else None]
  return {path: np.stack(each) for path, each in kept}


def median_size():
  """Return height and width, in [0, 1], of the median box of training."""
  folder = zoo.folder(zoo.artefact(zoo.EMBEDDED_DETECTOR))
  return json.loads((folder / "training.json").read_text())["median_size"]


def found_by(name, paths):
  """Return of each photo (boxes [N, 4], scores [N]) of a detector."""
  from delf.inference import detector

  model, found = detector.load(name, device="cpu"), []
  for path in paths:
    one = model.detect(np.asarray(utils.RgbLoader(path))[None])[0]
    found.append((one.boxes, one.scores))
  return found


def rows(name, wanted):
  """Yield (name, scores) of the detector and of the baselines.

  Args:
    name: Name or folder of the detector.
    wanted: As of `regions`.
  """
  from delf.learning import detector_training

  known, number = list(wanted.values()), len(wanted)
  found = found_by(name, wanted)
  yield f"{name}, best box", detector_training.score(found, known, most=1)
  for threshold in (0.5, 0.3, 0.1):
    scores = detector_training.score(found, known, threshold)
    yield f"{name}, score >= {threshold}", scores
  yield f"{name}, all boxes", detector_training.score(found, known)
  yield (
    "whole image",
    detector_training.score(detector_training.middle_box(number), known),
  )
  sizes = {
    "training": median_size(),
    "these": detector_training.median_size(known),
  }
  for name, size in sizes.items():
    found = detector_training.middle_box(number, size)
    yield f"median box of {name}", detector_training.score(found, known)


def main():
  """Run the benchmark; return its exit status."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--detector", default="delf-boxes", metavar="NAME|PATH")
  parser.add_argument("--quick", action="store_true", help="some photos")
  parser.add_argument("--data", type=pathlib.Path, default=photo_pairs.DATA)
  args = parser.parse_args()
  try:
    wanted = regions(args.data, args.quick)
    quick = " (quick)" if args.quick else ""
    number = sum(map(len, wanted.values()))
    print(f"{len(wanted)} photos, {number} objects{quick}")
    print(f"{'':28} {'recall':>7} {'precision':>10} {'AP':>6} {'overlap':>8}")
    for name, s in rows(args.detector, wanted):
      print(
        f"{name:28} {s.recall:7.3f} {s.precision:10.3f} "
        f"{s.average_precision:6.3f} {s.mean_overlap:8.3f}"
      )
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
