"""Photo pairs with ground truth: the evaluation sets."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from delf.python import utils

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class PhotoPair:
  """Two photos of one scene.

  Attributes:
    group: Name of the set it is counted with.
    first: Key of a photo.
    second: Key of the other.
    truth: As `pair_truth.agreeing` takes it, or None.
  """

  group: str
  first: str
  second: str
  truth: dict | None


@dataclasses.dataclass(frozen=True)
class PairSet:
  """Pairs that match and pairs that do not.

  Attributes:
    name: Words for it.
    true: list of PhotoPair.
    unrelated: list of (key, key).
    load: Function from a key to the photo, uint8 [H, W, 3].
  """

  name: str
  true: list
  unrelated: list
  load: object

  def keys(self):
    """Return the keys of all photos, sorted."""
    pairs = [(p.first, p.second) for p in self.true] + self.unrelated
    return sorted({key for pair in pairs for key in pair})

  def quick(self, every=8):
    """Return one in `every` pair of each kind."""
    return dataclasses.replace(
      self, true=self.true[::every], unrelated=self.unrelated[::every]
    )


def matching(folder):
  """Return the PairSet of `<folder>/matching`."""
  folder = pathlib.Path(folder) / "matching"
  pairs = json.loads((folder / "pairs.json").read_text())["pairs"]
  unrelated = json.loads((folder / "unrelated.json").read_text())
  true = [PhotoPair(p["set"], p["image0"], p["image1"], p["gt"]) for p in pairs]
  load = functools.partial(_load, folder)
  return PairSet("matching", true, [tuple(p) for p in unrelated], load)


def landmarks(folder):
  """Return the PairSet of `<folder>/landmark_photos`, without truths."""
  folder = pathlib.Path(folder) / "landmark_photos"
  pairs = json.loads((folder / "pairs.json").read_text())
  true = [
    PhotoPair("landmark_photos", p["image0"], p["image1"], None)
    for p in pairs["matching"]
  ]
  unrelated = [(p["image0"], p["image1"]) for p in pairs["non_matching"]]
  load = functools.partial(_load, folder)
  return PairSet("landmark_photos", true, unrelated, load)


def _load(folder, key):
  return np.asarray(utils.RgbLoader(folder / key))
