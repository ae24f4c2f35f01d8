"""A trained network as a SavedModel that extraction takes, with settings."""

import json
import types

import keras
import numpy as np
import tensorflow as tf

from delf.python import errors, files, whiten
from delf.python.datasets.utils import MEAN_BGR
from delf.python.training import exporting
from delf.python.training.global_features import (
  fitting,
  run_state,
  settings,
)
from delf.python.training.model import (
  checkpoints,
  export_folder,
  global_model,
  signatures,
)

# What extraction has made of a pixel: (value - 128) / 128.
_SCALE = _OFFSET = np.float32(128)

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


def load(folder, make_net=global_model.GlobalFeatureNet):
  """Makes the best network of a run.

  Args:
    folder: pathlib.Path of the run.
    make_net: As in `fitting.fit`.

  Returns:
    The network; settings.Settings of the run.

  Raises:
    FileNotFoundError: If there is no such run, or none that was saved.
    InputError: If its files are other ones.
  """
  stored = settings.read(folder / settings.FILE)
  network = stored.network
  net = make_net(
    network.architecture, network.pooling, network.whitening, False, ""
  )
  checkpoints.load_weights(net, run_state.best_path(folder))
  return net, stored


def export(
  folder, path, overwrite=False, make_net=global_model.GlobalFeatureNet
):
  """Exports the best network of a run, with a whitening if it learned one.

  The SavedModel has the tensors of every export of global descriptors: one
  descriptor of unit length for each scale. Beside it is `config.pbtxt` for
  extraction.

  Args:
    folder: pathlib.Path of the run.
    path: pathlib.Path of the folder to be.
    overwrite: Whether a finished export there is replaced.
    make_net: As in `fitting.fit`.

  Returns:
    int, size of the descriptor.

  Raises:
    FileNotFoundError: If there is no such run, or none that was saved.
    InputError: If its files are other ones, or there is something at `path`.
  """
  net, stored = load(folder, make_net)
  whitening = None
  if (folder / fitting.WHITENING).exists():
    whitening = whiten.read_whitening(folder / fitting.WHITENING)
    if whitening[1].shape[1] != net.meta["outputdim"]:
      raise errors.InputError(
        f"a whitening of {net.meta['outputdim']} dimensions",
        f"one of {whitening[1].shape[1]}",
        folder / fitting.WHITENING,
      )
  descriptor = tf.function(
    _descriptor(net, whitening),
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    autograph=False,
  )
  with export_folder.destination(path, overwrite) as new:
    functions = signatures.global_(
      types.SimpleNamespace(descriptor=descriptor), None, "None", False
    )
    exporting.save(functions, new)
    text = configuration(path.resolve(), stored.data)
    files.write_bytes(f"{new}/config.pbtxt", text.encode())
  return int(descriptor.get_concrete_function().outputs[0].shape[-1])


def configuration(path, data):
  """Returns the text of the DelfConfig of a model.

  Args:
    path: Its path.
    data: settings.Data.
  """
  return _CONFIGURATION.format(
    path=json.dumps(str(path), ensure_ascii=False),
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in data.scales),
    size=data.image_size,
  )


def _descriptor(net, whitening):
  """Returns a function of normalised RGB images [B, H, W, 3] to [B, D]."""

  def describe(images):
    bgr = tf.reverse(images * _SCALE + _OFFSET, [-1]) - np.float32(MEAN_BGR)
    vectors = net(bgr)
    if whitening is None:
      return vectors
    mean, projection = (np.asarray(x, np.float32) for x in whitening)
    vectors = (vectors - mean[:, 0]) @ projection.T
    return keras.ops.normalize(vectors, axis=-1)

  return describe
