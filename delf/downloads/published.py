"""Published data sets: addresses of their files, and places to put them."""

import dataclasses
from collections.abc import Iterable, Sequence

from delf.base import errors
from delf.python.datasets.revisited_op import dataset as revisited

# Kinds of files, which are installed differently.
ARCHIVE = "archive"  # A tar of images, unpacked.
GROUND_TRUTH = "ground truth"  # .mat or .pkl of Revisited Oxford and Paris.
TEXT = "text"  # CSV or list.
PAIRS = "pairs"  # .pkl of pairs of photos of one place.

_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets/"
_CIRTORCH = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test/"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m/"
_TRAINING = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/train/"
_HOW = "http://ptak.felk.cvut.cz/personal/toliageo/share/how/dataset/"
_LANDMARKS = "https://s3.amazonaws.com/google-landmark/"

DATASETS = {
  "roxford5k": "Revisited Oxford: photos and ground truth",
  "rparis6k": "Revisited Paris: photos and ground truth",
  "revisited-1m": "a million distractors of both, in 100 parts",
  "sfm120k": "retrieval-SfM-120k: photos and pairs for training",
  "gldv2": "Google Landmarks v2: train, index and test, in parts of about 1 GB",
}


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """One file of a data set."""

  name: str  # Path at a mirror, and name in messages.
  urls: tuple[str, ...]  # The preferred one first.
  # Path below the output folder, of the file or of the folder of the images.
  target: str
  kind: str = ARCHIVE  # Or GROUND_TRUTH, TEXT or PAIRS.
  flatten: bool = False  # Whether to put all images into one folder.
  # Whether images are named by an id, whose last digits become folders.
  by_id: bool = False
  md5: str = ""  # Name of a file with its MD5, if published.
  md5_url: str = ""
  size: int = 0  # Approximate bytes; 0 if unknown.


@dataclasses.dataclass(frozen=True)
class Split:
  """Split of Google Landmarks v2: tar files, bytes of each, CSV files."""

  parts: int
  size: int
  texts: tuple[str, ...]


_TRAIN_TEXTS = (
  "metadata/train.csv", "metadata/train_clean.csv",
  "metadata/train_attribution.csv", "metadata/train_label_to_category.csv",
  "metadata/train_label_to_hierarchical.csv",
)  # fmt: skip
_INDEX_TEXTS = (
  "metadata/index.csv", "metadata/index_image_to_landmark.csv",
  "metadata/index_label_to_category.csv",
  "metadata/index_label_to_hierarchical.csv",
)  # fmt: skip
_TEST_TEXTS = (
  "metadata/test.csv", "ground_truth/recognition_solution_v2.1.csv",
  "ground_truth/retrieval_solution_v2.1.csv",
)  # fmt: skip
SPLITS = {
  "train": Split(500, 1_000_000_000, _TRAIN_TEXTS),
  "index": Split(100, 850_000_000, _INDEX_TEXTS),
  "test": Split(20, 500_000_000, _TEST_TEXTS),
}
_DISTRACTOR_PARTS = 100


def files_of(
  dataset: str,
  splits: Sequence[str] = (),
  parts: Iterable[int] | None = None,
  images: bool = True,
) -> list[RemoteFile]:
  """Return the files of one of DATASETS, the small ones first.

  Args:
    splits: Keys of SPLITS, only for gldv2.
    parts: Numbers of the archives of each split, as in their names: from 0 for
      gldv2, from 1 for revisited-1m. None for all.
    images: Whether to include archives of images.
  """
  if dataset not in DATASETS:
    names = ", ".join(DATASETS)
    raise errors.InputError(f"a data set is one of {names}, not {dataset!r}")
  if dataset != "gldv2" and splits:
    raise errors.InputError(f"--split is for gldv2 only, not {dataset}")
  if dataset == "gldv2":
    if not splits:
      raise errors.InputError("gldv2 needs --split train, index or test")
    listed = [f for split in splits for f in _landmarks(split, parts)]
  elif dataset == "revisited-1m":
    listed = _distractors(parts)
  else:
    if parts is not None:
      problem = "only parts of gldv2 or revisited-1m can be selected"
      raise errors.InputError(f"{problem}, not of {dataset}")
    listed = _tuples() if dataset == "sfm120k" else _revisited(dataset)
  listed = [file for file in listed if images or file.kind != ARCHIVE]
  return sorted(listed, key=lambda file: file.kind == ARCHIVE)


def _file(base, name, target, kind=ARCHIVE, **more):
  return RemoteFile(name, (base + name,), target, kind, **more)


def _revisited(dataset):
  truth = []
  for ending, *sites in (("mat", _REVISITED), ("pkl", _REVISITED, _CIRTORCH)):
    name = f"gnd_{dataset}.{ending}"
    urls = tuple(f"{site}{dataset}/{name}" for site in sites)
    truth.append(RemoteFile(name, urls, name, GROUND_TRUTH))
  if dataset == "roxford5k":
    place, stems = "oxbuildings", ["oxbuild_images"]
  else:
    place, stems = "parisbuildings", ["paris_1", "paris_2"]
  # Published again in 2022; the former address is tried second.
  images = [
    RemoteFile(
      f"{stem}-v1.tgz",
      (f"{_OXFORD}{place}/{stem}-v1.tgz", f"{_OXFORD}{place}/{stem}.tgz"),
      revisited.IMAGE_FOLDERS[dataset],
      flatten=True,
    )
    for stem in stems
  ]
  return truth + images


def _tuples():
  large, small = "retrieval-SfM-120k", "retrieval-SfM-30k"
  pairs = [
    _file(base, name, f"train/{folder}/{name.split('/')[-1]}", PAIRS)
    for folder, base, name in (
      (large, _TRAINING, f"dbs/{large}.pkl"),
      (large, _TRAINING, f"dbs/{large}-whiten.pkl"),
      (small, _TRAINING, f"dbs/{small}-whiten.pkl"),
      (large, _HOW, f"{large}-val-eccv2020.pkl"),
    )
  ]
  target = f"train/{large}/ims"
  return [*pairs, _file(_TRAINING, "ims/ims.tar.gz", target, by_id=True)]


def _distractors(parts):
  listing, folder = "revisitop1m.txt", "revisitop1m"
  images = [
    _file(f"{_DISTRACTORS}jpg/", f"{folder}.{part}.tar.gz", f"{folder}/jpg")
    for part in _checked(parts, range(1, _DISTRACTOR_PARTS + 1))
  ]
  return [_file(_DISTRACTORS, listing, f"{folder}/{listing}", TEXT), *images]


def _landmarks(split, parts):
  if split not in SPLITS:
    names = ", ".join(SPLITS)
    raise errors.InputError(f"a split is one of {names}, not {split!r}")
  known, folder = SPLITS[split], f"gldv2_dataset/{split}"
  listed = []
  for name in known.texts:
    target = f"{folder}/{name.split('/')[-1]}"
    listed.append(_file(_LANDMARKS, name, target, TEXT))
  for part in _checked(parts, range(known.parts)):
    md5 = f"md5sum/{split}/md5.images_{part:03d}.txt"
    more = {"md5": md5, "md5_url": _LANDMARKS + md5, "size": known.size}
    name = f"{split}/images_{part:03d}.tar"
    listed.append(_file(_LANDMARKS, name, folder, **more))
  return listed


def _checked(parts, known):
  if parts is None:
    return known
  if unknown := sorted(set(parts) - set(known)):
    problem = f"no part {unknown[0]}: use parts from {known[0]} to {known[-1]}"
    raise errors.InputError(problem)
  return sorted(set(parts))
