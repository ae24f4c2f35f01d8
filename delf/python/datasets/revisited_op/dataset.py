"""Ground truth and metrics of Revisited Oxford and Paris.

These are functions of `delf.evaluation` under the original's names.
"""

import os
from typing import Any

from delf.base import errors, files
from delf.evaluation import ground_truth, metrics

ReadDatasetFile = ground_truth.read_revisited
ParseEasyMediumHardGroundTruth = ground_truth.split_protocols
AdjustPositiveRanks = metrics.adjust_positive_ranks
ComputeAveragePrecision = metrics.average_precision
ComputeMetrics = metrics.compute_metrics
ComputePRAtRanks = metrics.precision_recall
ReadMetricsFile = metrics.read_file
SaveMetricsFile = metrics.write_file

DATASET_NAMES = ["roxford5k", "rparis6k"]

# Folder of the images of each data set, beside its ground truth.
IMAGE_FOLDERS = {"roxford5k": "oxford5k_images", "rparis6k": "paris6k_images"}


def CreateConfigForTestDataset(
  dataset: str, dir_main: files.Path
) -> dict[str, Any]:
  """Describe the data set "roxford5k" or "rparis6k", in any case, in a folder.

  Returns the content of `gnd_<dataset>.pkl`, and `gnd_fname`, `ext`, `qext`,
  `dir_data`, `dir_images`, `n` and `nq` (numbers of index images and queries),
  `im_fname(config, i)`, `qim_fname(config, i)` (paths of images) and `dataset`.
  """
  dataset = dataset.lower()
  if dataset not in DATASET_NAMES:
    known = ", ".join(DATASET_NAMES)
    raise errors.InputError(f"the data set is {dataset}, not one of {known}")
  path = os.path.join(dir_main, f"gnd_{dataset}.pkl")
  config = ground_truth.read_pickle(path)
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
