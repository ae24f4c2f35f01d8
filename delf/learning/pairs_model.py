"""Networks trained on tuples of photos: searches, whitening, exports."""

import json
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from delf.base import errors, files
from delf.formats import network_files
from delf.learning import pairs_settings
from delf.networks import exporting, model_checkpoints, signatures
from delf.python import whiten
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.datasets.utils import MEAN_BGR
from delf.python.training import global_features_utils
from delf.python.training.model import global_model
from delf.python.training.model.global_model import GlobalFeatureNet
from delf.records import tuples

WHITENING = "whitening.datum"
BEST = "best"  # Weights of the best network: <BEST>-<epoch>.
_PROTOCOLS = ("easy", "medium", "hard")

# Power of the mean of GeM descriptors over scales (Radenovic et al.,
# arXiv:1711.02512, section 5.2).
_GEM_POWER = 3.0

# Extraction normalizes pixels to (value - 128) / 128.
_SCALE = _OFFSET = np.float32(128)

# Mean [D, 1] and projection [D, D].
Whitening = tuple[np.ndarray, np.ndarray]

_CONFIGURATION = """\
# A global descriptor of a network that training/global_features trained.

model_path: {path}
{scales}
max_image_size: {size}
use_local_features: false
use_global_features: true
delf_global_config {{
  use_pca: false
}}
is_tf2_exported: true
"""


def require_files(paths: Sequence[str], listed_in: str) -> None:
  """Raise FileNotFoundError if photos that a file lists are missing."""
  missing = [path for path in paths if not os.path.exists(path)]
  if missing:
    raise FileNotFoundError(
      f"{missing[0]}: no such file: {len(missing)} of the {len(paths)} photos "
      f"that {listed_in} lists are missing"
    )


def open_tests(names: Sequence[str], data_root: str) -> list[dict]:
  """Return `CreateConfigForTestDataset` of data sets; check that photos exist.

  The folder has `gnd_<name>.pkl` and the photos' folders.
  """
  tests = [revisited.CreateConfigForTestDataset(n, data_root) for n in names]
  for test in tests:
    queries, index = _photos(test)
    require_files(queries + index, test["gnd_fname"])
  return tests


def _photos(test):
  """Return the paths of the queries and of the index images."""
  return (
    [test["qim_fname"](test, i) for i in range(test["nq"])],
    [test["im_fname"](test, i) for i in range(test["n"])],
  )


class Describer:
  """Computes descriptors of photos for the searches of a run."""

  def __init__(self, net: GlobalFeatureNet, data: pairs_settings.Data):
    self._net, self._data = net, data
    gem = net.meta["pooling"] == "gem" and not net.meta["whitening"]
    self._power = _GEM_POWER if gem and len(data.scales) > 1 else 1.0

  def describe(
    self, paths: Sequence[str], boxes: Sequence | None = None
  ) -> np.ndarray:
    """Return descriptors float32 [D, N] of N photos, or of a box in each."""
    return global_model.extract_global_descriptors_from_list(
      self._net,
      paths,
      self._data.image_size,
      boxes,
      self._data.scales,
      self._power,
      workers=self._data.workers,
    )


def search(
  describer: Describer, test: Mapping, whitening: Whitening | None = None
) -> dict[str, float]:
  """Search a data set of `open_tests`, and print the metrics.

  Return the mean average precision in [0, 1] by protocol, NaN if no query has
  positives.
  """
  boxes = [truth.get("bbx") for truth in test["gnd"]]
  queries, index = _photos(test)
  index = describer.describe(index)
  queries = describer.describe(queries, boxes)
  if whitening is not None:
    index, queries = (
      whiten.apply_whitening(each, *whitening) for each in (index, queries)
    )
  ranks = np.argsort(-(queries.T @ index), axis=1, kind="stable")
  metrics = global_features_utils.compute_metrics_and_print(
    test["dataset"],
    ranks,
    test["gnd"],
    [rank for rank in (1, 5, 10) if rank <= ranks.shape[1]],
    log=False,
  )
  return {
    protocol: float(each[0])
    for protocol, each in zip(_PROTOCOLS, metrics, strict=True)
  }


def whitening_pairs(
  name: str, data_root: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
  """Read the pairs for a whitening from <name>-whiten.pkl.

  Returns:
    N paths of photos; [P] int, [P] int: indices of the two photos of each pair.
  """
  path = os.path.join(data_root, "train", name, f"{name}-whiten.pkl")
  pairs = tuples.read_pairs(path)
  folder = tuples.images_folder(path, data_root, name)
  if not os.path.isdir(folder):  # The photos of 30k are among those of 120k.
    folder = tuples.images_folder(path, data_root, sfm120k.NAME)
  used, places = np.unique(
    np.concatenate([pairs.queries, pairs.positives]), return_inverse=True
  )
  paths = [tuples.image_path(pairs.names[i], folder) for i in used]
  require_files(paths, path)
  first, second = np.split(places, 2)
  return paths, first, second


def learn_whitening(
  describer: Describer, pairs: tuple, path: pathlib.Path
) -> Whitening:
  """Learn a whitening from `whitening_pairs`, and write it to a file."""
  paths, first, second = pairs
  try:
    learned = whiten.learn_whitening(describer.describe(paths), first, second)
  except np.linalg.LinAlgError:
    raise errors.InputError(
      "no whitening can be learned: the pairs are too few or too similar",
      path=path,
    ) from None
  whiten.write_whitening(path, *learned)
  return learned


def best_path(folder: pathlib.Path) -> pathlib.Path:
  """Return the prefix of the best weights of a run."""
  indices = sorted(folder.glob(f"{BEST}-*.index"))
  if not indices:
    raise FileNotFoundError(
      f"{folder}: the folder has no weights {BEST}-*.index of a run"
    )
  return indices[-1].with_suffix("")


def load(
  folder: pathlib.Path, make_net: Callable = GlobalFeatureNet
) -> tuple[GlobalFeatureNet, pairs_settings.Settings]:
  """Load the best network of a run, and the run's settings."""
  stored = pairs_settings.read(folder / pairs_settings.FILE)
  network = stored.network
  net = make_net(
    network.architecture, network.pooling, network.whitening, False, ""
  )
  model_checkpoints.load_weights(net, best_path(folder))
  return net, stored


def export(
  folder: pathlib.Path,
  path: pathlib.Path,
  overwrite: bool = False,
  make_net: Callable = GlobalFeatureNet,
) -> int:
  """Export the best network of a run, with its whitening, if any.

  The SavedModel has the signature of all exports of global descriptors, one
  unit descriptor for each scale; beside it is a `config.pbtxt` for extraction.
  Return the dimension of the descriptor.
  """
  net, stored = load(folder, make_net)
  whitening = None
  if (folder / WHITENING).exists():
    whitening = whiten.read_whitening(folder / WHITENING)
    if whitening[1].shape[1] != net.meta["outputdim"]:
      raise errors.InputError(
        f"the whitening has {whitening[1].shape[1]} dimensions, but the "
        f"network has {net.meta['outputdim']}",
        path=folder / WHITENING,
      )

  def describe(images):
    bgr = tf.reverse(images * _SCALE + _OFFSET, [-1]) - np.array(
      MEAN_BGR, np.float32
    )
    vectors = net(bgr)
    if whitening is None:
      return vectors
    mean, projection = (np.asarray(x, np.float32) for x in whitening)
    vectors = (vectors - mean[:, 0]) @ projection.T
    return keras.ops.normalize(vectors, axis=-1)

  descriptor = tf.function(
    describe,
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    autograph=False,
  )
  with exporting.destination(path, overwrite) as new:
    functions = signatures.functions(
      types.SimpleNamespace(descriptor=descriptor),  # type: ignore[arg-type]
      network_files.Settings(network_files.GLOBAL),
    )
    exporting.save(functions, new)
    text = _CONFIGURATION.format(
      path=json.dumps(str(path.resolve()), ensure_ascii=False),
      scales="\n".join(
        f"image_scales: {scale:.7g}" for scale in stored.data.scales
      ),
      size=stored.data.image_size,
    )
    files.write_bytes(f"{new}/config.pbtxt", text.encode())
  return int(descriptor.get_concrete_function().outputs[0].shape[-1])
