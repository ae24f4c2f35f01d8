"""Utilities for training global features."""

import os
import sys
from collections.abc import Iterable

import numpy as np
from absl import logging

from delf.base import errors
from delf.python.datasets.revisited_op import dataset

_RANKS = (1, 5, 10)


class AverageMeter:
  """Running average: the last value `val`, and `sum`, `count` and `avg`."""

  def __init__(self) -> None:
    self.reset()

  def reset(self) -> None:
    """Forget all values."""
    self.val = self.avg = self.sum = 0.0
    self.count = 0

  def update(self, val: float, n: int = 1) -> None:
    """Add a value with weight `n`."""
    self.val = val
    self.sum += val * n
    self.count += n
    self.avg = self.sum / self.count if self.count else 0.0


def compute_metrics_and_print(
  dataset_name: str,
  sorted_index_ids: np.ndarray,
  ground_truth: list[dict],
  desired_pr_ranks: Iterable[int] | None = None,
  log: bool = True,
) -> tuple:
  """Print the metrics of "roxford5k" or "rparis6k", and log them if `log`.

  Args:
    sorted_index_ids: [Q, N] int, ids of index images, best first.
    ground_truth: Q dicts of `dataset.ReadDatasetFile`.
    desired_pr_ranks: Ranks at which to measure precision; None for 1, 5 and 10.

  Returns:
    `dataset.ComputeMetrics` of the easy, medium and hard protocols.
  """
  if dataset_name not in dataset.DATASET_NAMES:
    names = ", ".join(dataset.DATASET_NAMES)
    raise errors.InputError(f"data set must be {names}, not {dataset_name!r}")
  ranks = list(_RANKS if desired_pr_ranks is None else desired_pr_ranks)
  protocols = dataset.ParseEasyMediumHardGroundTruth(ground_truth)
  metrics = tuple(
    dataset.ComputeMetrics(sorted_index_ids, protocol, ranks)
    for protocol in protocols
  )
  for title, place in (("mAP", 0), (f"mP@k{ranks}", 1)):
    values = ", ".join(
      f"{name}: {np.around(100 * each[place], 2)}"
      for name, each in zip(("E", "M", "H"), metrics, strict=True)
    )
    debug_and_log(f">> {dataset_name}: {title} {values}", log=log)
  return metrics


def htime(time_difference: float) -> str:
  """Format a number of seconds as "1d 1h 1m 1s"."""
  seconds = round(time_difference)
  parts: list[str] = []
  for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
    if parts or seconds >= length:
      parts.append(f"{seconds // length}{unit}")
    seconds %= length
  return " ".join([*parts, f"{seconds}s"])


def debug_and_log(
  msg: str,
  debug: bool = True,
  log: bool = True,
  debug_on_the_same_line: bool = False,
) -> None:
  """Print a message if `debug`, and log it if `log`."""
  if debug:
    sys.stdout.write(msg if debug_on_the_same_line else f"{msg}\n")
    sys.stdout.flush()
  if log:
    logging.info("%s", msg)


def get_standard_keras_models() -> list[str]:
  """Return the sorted names of the models in Keras Applications."""
  import keras

  return sorted(
    name
    for name, value in vars(keras.applications).items()
    if name[0].isupper() and callable(value)
  )


def create_model_directory(  # noqa: PLR0913
  training_dataset: str,
  arch: str,
  pool: str,
  whitening: bool,
  pretrained: bool,
  loss: str,
  loss_margin: float,
  optimizer: str,
  lr: float,
  weight_decay: float,
  neg_num: int,
  query_size: int,
  pool_size: int,
  batch_size: int,
  update_every: int,
  image_size: int,
  directory: str,
) -> str:
  """Create the folder of a training run in `directory`, and return its path.

  The name states the options: `neg_num` negatives of a query, `query_size`
  queries of an epoch, `pool_size` images to mine negatives from, `batch_size`
  queries of a batch, `update_every` batches of an update.
  """
  parts = [
    *(training_dataset, arch, pool),
    *(["whiten"] if whitening else []),
    *([] if pretrained else ["notpretrained"]),
    loss,
    f"m{loss_margin:.2f}",
    optimizer,
    f"lr{lr:.1e}",
    f"wd{weight_decay:.1e}",
    f"nnum{neg_num}",
    f"qsize{query_size}",
    f"psize{pool_size}",
    f"bsize{batch_size}",
    f"uevery{update_every}",
    f"imsize{image_size}",
  ]
  path = os.path.join(directory, "_".join(parts))
  os.makedirs(path, exist_ok=True)
  return path
