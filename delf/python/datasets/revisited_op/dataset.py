"""Revisited Oxford and Paris: reading ground truth, and computing metrics."""

import os

import numpy as np

from delf.base import errors
from delf.evaluation import revisited
from delf.evaluation.revisited import (
  AdjustPositiveRanks,
  ComputeAveragePrecision,
  ComputeMetrics,
  ComputePRAtRanks,
  ReadMetricsFile,
  SaveMetricsFile,
)

__all__ = [
  "DATASET_NAMES",
  "IMAGE_FOLDERS",
  "AdjustPositiveRanks",
  "ComputeAveragePrecision",
  "ComputeMetrics",
  "ComputePRAtRanks",
  "CreateConfigForTestDataset",
  "ParseEasyMediumHardGroundTruth",
  "ReadDatasetFile",
  "ReadMetricsFile",
  "SaveMetricsFile",
]

DATASET_NAMES = ["roxford5k", "rparis6k"]

# Folder of the images of each, beside its ground truth.
IMAGE_FOLDERS = {"roxford5k": "oxford5k_images", "rparis6k": "paris6k_images"}


def ReadDatasetFile(dataset_file_path):
  """Reads the ground truth of a data set.

  Args:
    dataset_file_path: Path of a `.mat` file, or of a `.pkl` file, which is read
      without running what it may hold.

  Returns:
    (query_list, index_list, ground_truth): lists of str, names without
    extension; list of one dict a query with those of "easy", "hard", "junk"
    that the file has ([n], 0-based index images; float64 of the usual `.mat`
    file, int64 of a `.pkl` file) and "bbx" ([4] float64, x1, y1, x2, y2 in
    pixels).

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or names images that it does not list.
  """
  return revisited.read(dataset_file_path)


def ParseEasyMediumHardGroundTruth(ground_truth):
  """Splits ground truth into the three protocols.

  Easy looks for the easy images and leaves the hard ones out, medium looks for
  both, hard for the hard ones only.

  Args:
    ground_truth: list of dicts as `ReadDatasetFile` gives; where one of
      "easy", "hard" and "junk" is missing, it counts as empty.

  Returns:
    (easy, medium, hard): lists of dicts with "ok" and "junk", [n] ids in the
    order easy or junk first, then what is added.

  Raises:
    InputError: If a query has neither "easy" nor "hard".
  """
  protocols = {"easy": [], "medium": [], "hard": []}
  for i, truth in enumerate(ground_truth):
    if not {"easy", "hard"} & set(truth):
      raise errors.InputError(
        f"'easy' and 'hard' of query {i + 1}", ", ".join(truth) or "nothing"
      )
    easy, hard, junk = (
      revisited.ids(truth.get(label, ())) for label in revisited.LABELS
    )
    for protocol, ok, more in (
      ("easy", [easy], [hard]),
      ("medium", [easy, hard], []),
      ("hard", [hard], [easy]),
    ):
      protocols[protocol].append(
        {"ok": np.concatenate(ok), "junk": np.concatenate([junk, *more])}
      )
  return tuple(protocols.values())


def CreateConfigForTestDataset(dataset, dir_main):
  """Describes a data set that lies in a folder.

  Args:
    dataset: "roxford5k" or "rparis6k", in any case.
    dir_main: Folder of `gnd_<dataset>.pkl` and of the images' folder.

  Returns:
    dict: the content of that file, and `gnd_fname`, `ext` and `qext`,
    `dir_data`, `dir_images`, `n` and `nq` (numbers of index images and
    queries), `im_fname(config, i)` and `qim_fname(config, i)` (paths of
    images), `dataset`.

  Raises:
    FileNotFoundError: If there is no ground truth.
    InputError: If the data set is not known, or its file is not one.
  """
  dataset = dataset.lower()
  if dataset not in DATASET_NAMES:
    raise errors.InputError(f"one of {', '.join(DATASET_NAMES)}", dataset)
  path = os.path.join(dir_main, f"gnd_{dataset}.pkl")
  config = revisited.read_pickle(path)
  config.update(
    gnd_fname=path,
    ext=".jpg",
    qext=".jpg",
    dir_data=dir_main,
    dir_images=os.path.join(dir_main, IMAGE_FOLDERS[dataset]),
    n=len(config["imlist"]),
    nq=len(config["qimlist"]),
    im_fname=_index_path,
    qim_fname=_query_path,
    dataset=dataset,
  )
  return config


def _index_path(config, i):
  return os.path.join(config["dir_images"], config["imlist"][i] + config["ext"])


def _query_path(config, i):
  name = config["qimlist"][i] + config["qext"]
  return os.path.join(config["dir_images"], name)
