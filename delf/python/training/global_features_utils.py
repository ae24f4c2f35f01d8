"""Small things that training of global features is made of."""

import os
import sys

import numpy as np
from absl import logging

from delf.base import errors
from delf.python.datasets.revisited_op import dataset

_RANKS = (1, 5, 10)


class AverageMeter:
  """The last value `val`, and `sum`, `count` and `avg` of all so far."""

  def __init__(self):
    self.reset()

  def reset(self):
    """Forgets all values."""
    self.val = self.avg = self.sum = 0.0
    self.count = 0

  def update(self, val, n=1):
    """Takes a value that came up `n` times."""
    self.val = val
    self.sum += val * n
    self.count += n
    self.avg = self.sum / self.count if self.count else 0.0


def compute_metrics_and_print(
  dataset_name, sorted_index_ids, ground_truth, desired_pr_ranks=None, log=True
):
  """Prints metrics of "roxford5k" or "rparis6k", and logs them if `log`.

  Args:
    sorted_index_ids: [Q, N] int, ids of index images, best first.
    ground_truth: Q dicts, as of `dataset.ReadDatasetFile`.
    desired_pr_ranks: Numbers of results to measure precision at; None is 1, 5
      and 10.

  Returns:
    `dataset.ComputeMetrics` of easy, medium and hard.
  """
  if dataset_name not in dataset.DATASET_NAMES:
    raise errors.InputError(
      f"one of {', '.join(dataset.DATASET_NAMES)}", repr(dataset_name)
    )
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


def htime(time_difference):
  """Returns a number of seconds as text, such as "1d 1h 1m 1s"."""
  seconds = round(time_difference)
  parts = []
  for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
    if parts or seconds >= length:
      parts.append(f"{seconds // length}{unit}")
    seconds %= length
  return " ".join([*parts, f"{seconds}s"])


def debug_and_log(msg, debug=True, log=True, debug_on_the_same_line=False):
  """Prints a message if `debug`, and logs it if `log`.

  What is printed next may follow on its line.
  """
  if debug:
    sys.stdout.write(msg if debug_on_the_same_line else f"{msg}\n")
    sys.stdout.flush()
  if log:
    logging.info("%s", msg)


def get_standard_keras_models():
  """Returns the names of what Keras has ready: sorted list of str."""
  import keras

  return sorted(
    name
    for name, value in vars(keras.applications).items()
    if name[0].isupper() and callable(value)
  )


def create_model_directory(  # noqa: PLR0913
  training_dataset,
  arch,
  pool,
  whitening,
  pretrained,
  loss,
  loss_margin,
  optimizer,
  lr,
  weight_decay,
  neg_num,
  query_size,
  pool_size,
  batch_size,
  update_every,
  image_size,
  directory,
):
  """Makes the folder of a training in `directory`, and returns its path.

  Its name tells how the network is trained: `neg_num` negatives of a query,
  `query_size` queries of an epoch, `pool_size` images that negatives are looked
  for in, `batch_size` queries of a batch, `update_every` batches of an update.
  """
  parts = [training_dataset, arch, pool]
  parts += ["whiten"] if whitening else []
  parts += [] if pretrained else ["notpretrained"]
  parts += [
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
