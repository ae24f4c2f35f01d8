"""Searching Revisited Oxford and Paris while training, and whitening."""

import os

import numpy as np

from delf.python import errors, whiten
from delf.python.datasets import tuples_file, tuples_paths
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training import global_features_utils
from delf.python.training.model import global_model

_PROTOCOLS = ("easy", "medium", "hard")
# Power of the mean over scales of descriptors that GeM has pooled, as in
# Radenovic et al., arXiv:1711.02512, section 5.2.
_GEM_POWER = 3.0


def open_tests(names, data_root):
  """Reads the ground truth of data sets, and looks for their photos.

  Args:
    names: "roxford5k", "rparis6k".
    data_root: Folder with `gnd_<name>.pkl` and the photos' folders.

  Returns:
    list of dict, as `dataset.CreateConfigForTestDataset` makes them.

  Raises:
    FileNotFoundError: If ground truth or a photo is missing.
    InputError: If ground truth is none.
  """
  tests = [revisited.CreateConfigForTestDataset(n, data_root) for n in names]
  for test in tests:
    require_files(_queries(test) + _index(test), test["gnd_fname"])
  return tests


def require_files(paths, listed_in):
  """Raises FileNotFoundError if photos that a file lists are missing."""
  missing = [path for path in paths if not os.path.exists(path)]
  if missing:
    raise FileNotFoundError(
      f"{missing[0]}: expected the {len(paths)} photos that {listed_in} lists,"
      f" found {len(paths) - len(missing)}"
    )


class Describer:
  """Describes photos as the searches of a run do."""

  def __init__(self, net, data):
    """Takes the network and how photos are read.

    Args:
      net: GlobalFeatureNet.
      data: settings.Data.
    """
    self._net, self._data = net, data
    gem = net.meta["pooling"] == "gem" and not net.meta["whitening"]
    self._power = _GEM_POWER if gem and len(data.scales) > 1 else 1.0

  def describe(self, paths, boxes=None):
    """Returns [D, N] float32 of photos, or of the boxes in them."""
    return global_model.extract_global_descriptors_from_list(
      self._net,
      paths,
      self._data.image_size,
      boxes,
      self._data.scales,
      self._power,
      workers=self._data.workers,
    )


def search(describer, test, whitening=None):
  """Searches a data set, and prints what it measures.

  Args:
    describer: Describer.
    test: One of `open_tests`.
    whitening: (mean, projection) as of `whiten.learn_whitening`, or None.

  Returns:
    dict by protocol of mean average precision in [0, 1], NaN where no query
    has positives.
  """
  boxes = [truth.get("bbx") for truth in test["gnd"]]
  index = describer.describe(_index(test))
  queries = describer.describe(_queries(test), boxes)
  if whitening is not None:
    index, queries = (
      whiten.apply_whitening(each, *whitening) for each in (index, queries)
    )
  ranks = np.argsort(-(queries.T @ index), axis=1, kind="stable")
  number = ranks.shape[1]
  metrics = global_features_utils.compute_metrics_and_print(
    test["dataset"],
    ranks,
    test["gnd"],
    [rank for rank in (1, 5, 10) if rank <= number],
    log=False,
  )
  return {
    protocol: float(found[0])
    for protocol, found in zip(_PROTOCOLS, metrics, strict=True)
  }


def whitening_paths(name, data_root):
  """Reads the pairs that a whitening is learned of.

  Args:
    name: "retrieval-SfM-30k" or "retrieval-SfM-120k".
    data_root: Folder with `train/<name>/<name>-whiten.pkl`.

  Returns:
    list of N paths of photos; [P] int, [P] int, the places of pairs in it.

  Raises:
    FileNotFoundError: If there is no such file, or photo.
    InputError: If the file is another one.
  """
  path = os.path.join(data_root, "train", name, f"{name}-whiten.pkl")
  pairs = tuples_file.read(path)
  folder = tuples_paths.images_folder(path, data_root, name)
  if not os.path.isdir(folder):  # The photos of 30k are among those of 120k.
    folder = tuples_paths.images_folder(path, data_root, sfm120k.NAME)
  used, places = np.unique(
    np.concatenate([pairs.queries, pairs.positives]), return_inverse=True
  )
  paths = [tuples_paths.image_path(pairs.names[i], folder) for i in used]
  require_files(paths, path)
  return paths, *np.split(places, 2)


def learn_whitening(describer, pairs, path):
  """Learns a whitening, and writes it.

  Args:
    describer: Describer.
    pairs: What `whitening_paths` returns.
    path: Path of the `whitening.datum` to be.

  Returns:
    (mean [D, 1], projection [D, D]), float64.

  Raises:
    InputError: If a photo cannot be read, or pairs are all of one photo.
  """
  paths, first, second = pairs
  try:
    found = whiten.learn_whitening(describer.describe(paths), first, second)
  except np.linalg.LinAlgError:
    raise errors.InputError(
      "pairs that a whitening can be learned of", "others", path
    ) from None
  whiten.write_whitening(path, *found)
  return found


def _index(test):
  return [test["im_fname"](test, i) for i in range(test["n"])]


def _queries(test):
  return [test["qim_fname"](test, i) for i in range(test["nq"])]
