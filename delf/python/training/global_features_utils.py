"""Small things that training of global features is made of."""

import os
import sys

import numpy as np
from absl import logging

from delf.base import errors
from delf.python.datasets.revisited_op import dataset

_RANKS = (1, 5, 10)


class AverageMeter:
  """The last value, and the average of all values so far.

  Attributes:
    val: Last value.
    avg: Average.
    sum: Sum.
    count: Number of values.
  """

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
  """Computes metrics of Revisited Oxford or Paris, and prints them.

  Args:
    dataset_name: "roxford5k" or "rparis6k".
    sorted_index_ids: [Q, N] int, ids of index images, best first.
    ground_truth: list of Q dicts, as `dataset.ReadDatasetFile` gives them.
    desired_pr_ranks: Numbers of results to measure precision at; None is 1, 5
      and 10.
    log: Whether they are logged too.

  Returns:
    (easy, medium, hard), each what `dataset.ComputeMetrics` returns, in [0, 1].

  Raises:
    InputError: If the data set is another one, or rankings do not fit it.
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
    words = ", ".join(
      f"{name}: {np.around(100 * found[place], 2)}"
      for name, found in zip(("E", "M", "H"), metrics, strict=True)
    )
    debug_and_log(f">> {dataset_name}: {title} {words}", log=log)
  return metrics


def htime(time_difference):
  """Returns a time as words, such as "1d 1h 1m 1s".

  Args:
    time_difference: Seconds.
  """
  seconds = round(time_difference)
  parts = []
  for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
    if parts or seconds >= length:
      parts.append(f"{seconds // length}{unit}")
    seconds %= length
  return " ".join([*parts, f"{seconds}s"])


def debug_and_log(msg, debug=True, log=True, debug_on_the_same_line=False):
  """Prints a message, and logs it.

  Args:
    msg: Text.
    debug: Whether it is printed to standard output.
    log: Whether it is logged.
    debug_on_the_same_line: Whether what is printed next follows on its line.
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
  """Makes the folder of a training, whose name says how it is trained.

  Args:
    training_dataset: Name of the data set.
    arch: Architecture.
    pool: Pooling.
    whitening: Whether a whitening layer is learned.
    pretrained: Whether it starts with weights of ImageNet.
    loss: Loss.
    loss_margin: Its margin.
    optimizer: Optimizer.
    lr: Learning rate.
    weight_decay: Weight decay.
    neg_num: Number of negatives of a query.
    query_size: Queries of an epoch.
    pool_size: Images that negatives are looked for in.
    batch_size: Queries of a batch.
    update_every: Batches of an update.
    image_size: Largest side of an image, pixels.
    directory: Folder that it is made in.

  Returns:
    str, its path.
  """
  words = [training_dataset, arch, pool]
  words += ["whiten"] if whitening else []
  words += [] if pretrained else ["notpretrained"]
  words += [
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
  path = os.path.join(directory, "_".join(words))
  os.makedirs(path, exist_ok=True)
  return path
