"""Photo pairs with ground truth: the evaluation sets and the held-out ones."""

import dataclasses
import functools
import json
import pathlib

import numpy as np

from delf.python import utils

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class PhotoPair:
  """Two photos of one scene.

  Attributes:
    group: Name of the set it is counted with.
    first: Key of a photo.
    second: Key of the other.
    truth: As `_matching_truth.agreeing` takes it, or None.
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
    """Returns the keys of all photos, sorted."""
    pairs = [(p.first, p.second) for p in self.true] + self.unrelated
    return sorted({key for pair in pairs for key in pair})

  def quick(self, every=8):
    """Returns one in `every` pair of each kind."""
    return dataclasses.replace(
      self, true=self.true[::every], unrelated=self.unrelated[::every]
    )


def matching(folder):
  """Returns the PairSet of `<folder>/matching`."""
  folder = pathlib.Path(folder) / "matching"
  pairs = json.loads((folder / "pairs.json").read_text())["pairs"]
  unrelated = json.loads((folder / "unrelated.json").read_text())
  true = [PhotoPair(p["set"], p["image0"], p["image1"], p["gt"]) for p in pairs]
  load = functools.partial(_load, folder)
  return PairSet("matching", true, [tuple(p) for p in unrelated], load)


def landmarks(folder):
  """Returns the PairSet of `<folder>/landmark_photos`, without truths."""
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


def validation(folder, synthetic=100, unrelated=300, side=320, seed=7):
  """Returns a PairSet of photos that training leaves out.

  Args:
    folder: Folder with `train_pool` and `train_pool_more`.
    synthetic: Pairs of views of one photo (hard homographies and light).
    unrelated: Pairs of photos of different places.
    side: Pixels of a view's side.
    seed: Of the draws.
  """
  from delf.python.training.self_supervised import (
    data,
    photos,
    real_pairs,
    warps,
  )

  folders = [
    pathlib.Path(folder) / n for n in ("train_pool", "train_pool_more")
  ]
  _, held_out = photos.split(photos.load(folders))
  rng = np.random.default_rng(seed)
  images = {f"photo {i}": photo.image for i, photo in enumerate(held_out)}
  pools = {f"photo {i}": photo.pool for i, photo in enumerate(held_out)}
  true = []
  for pair in real_pairs.find(held_out):
    truth = {"type": "points", "points": pair.points}
    names = f"photo {pair.first}", f"photo {pair.second}"
    true.append(PhotoPair("real", *names, truth))
  while synthetic:
    i = int(rng.integers(len(held_out)))
    photo = held_out[i].image
    size = np.array(photo.shape[1::-1])
    maps = [
      warps.random_view(
        rng, size * rng.uniform(0.35, 0.65, 2), side, rng.uniform(0.9, 1.7), 1.0
      )
      for _ in range(2)
    ]
    if len(data.correspondences(rng, maps, size, side)[0]) < 150:
      continue
    names = [f"view {synthetic} {k} {i}" for k in range(2)]
    for name, homography in zip(names, maps, strict=True):
      view = warps.render(photo, homography, side)
      images[name] = warps.change_pixels(rng, view, 0.9)
      pools[name] = held_out[i].pool
    truth = {"type": "homography", "H": maps[1] @ np.linalg.inv(maps[0])}
    true.append(PhotoPair("synthetic", *names, truth))
    synthetic -= 1
  names, others = list(images), set()
  while len(others) < unrelated:
    pair = tuple(names[k] for k in rng.integers(len(names), size=2))
    if pools[pair[0]] != pools[pair[1]]:
      others.add(pair)
  return PairSet("validation", true, sorted(others), images.__getitem__)
