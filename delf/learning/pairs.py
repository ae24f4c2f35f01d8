"""Training of a global descriptor, from its first epoch or where it was."""

import dataclasses
import json
import math
import types

import keras
import numpy as np
import tensorflow as tf

from delf.base import arrays as base_arrays
from delf.base import concurrency, errors, files
from delf.learning import loop, pairs_data, pairs_settings
from delf.networks import exporting, model_checkpoints, signatures
from delf.python import whiten
from delf.python.datasets.sfm120k import sfm120k
from delf.python.datasets.utils import MEAN_BGR
from delf.python.training.losses import ranking_losses
from delf.python.training.model import global_model

# The learning rate falls by this power of e in an epoch: Radenovic et al.,
# arXiv:1711.02512, section 4.2.
_DECAY = -0.01

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32)
_VECTORS = tf.TensorSpec([None, None], tf.float32)


class Learner:
  """A network and its optimizer.

  Images of a tuple have sizes of their own, and go through the network one at a
  time: first all forwards, for the loss and its gradient with respect to each
  descriptor, then each again with a gradient of its weights. So the memory is
  that of one image, and images that the loss does not depend on (negatives that
  are far) cost no gradient. As nothing in the network is random, it is exact.

  Attributes:
    net: GlobalFeatureNet.
  """

  def __init__(self, net, learning):
    """Makes the optimizer and places for gradients.

    Args:
      net: GlobalFeatureNet.
      learning: settings.Learning.
    """
    self.net = net
    self._learning = learning
    kind = {
      "contrastive": ranking_losses.ContrastiveLoss,
      "triplet": ranking_losses.TripletLoss,
    }[learning.loss]
    self._loss = kind(margin=learning.margin)
    self._weights = net.trainable_variables
    if learning.optimizer == "adam":
      self._optimizer = keras.optimizers.Adam(learning.rate)
    else:
      self._optimizer = keras.optimizers.SGD(
        learning.rate, momentum=learning.momentum
      )
    self._optimizer.build(self._weights)
    self._sums = [tf.Variable(tf.zeros(w.shape)) for w in self._weights]
    self._gradients = tf.function(
      self._loss_gradients,
      input_signature=[_VECTORS, _VECTORS, _VECTORS],
      autograph=False,
    )
    self._back = tf.function(
      self._accumulate, input_signature=[_IMAGES, _VECTORS], autograph=False
    )
    self._apply = tf.function(
      self._update,
      input_signature=[tf.TensorSpec([], tf.float32)],
      autograph=False,
    )

  @property
  def variables(self):
    """All that a step changes: list of keras.Variable, the network's first."""
    return self.net.variables + self._optimizer.variables

  def loss(self, images):
    """Returns the loss of a tuple.

    Args:
      images: list of [H, W, 3] float32: query, positive, negatives.

    Returns:
      float.
    """
    return float(self._gradients(*self._vectors(images))[0])

  def learn(self, images):
    """Adds the gradients of a tuple to what the next update applies.

    Args:
      images: As for `loss`.

    Returns:
      float, the loss; where it is not finite, nothing is added.
    """
    loss, upstream = self._gradients(*self._vectors(images))
    if not math.isfinite(loss):
      return float(loss)
    upstream = np.asarray(upstream)
    for image, vector in zip(images, upstream, strict=True):
      if vector.any():
        self._back(tf.constant(image[None]), tf.constant(vector[None]))
    return float(loss)

  def update(self, epochs):
    """Applies what was added since the last update.

    Args:
      epochs: Epochs that are over, with a fraction; the learning rate falls
        with them.
    """
    decay = math.exp(_DECAY * epochs)
    self._optimizer.learning_rate.assign(self._learning.rate * decay)
    self._apply(tf.constant(self._learning.weight_decay * decay, tf.float32))

  def rate(self):
    """Returns the learning rate of the last update, float."""
    return float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))

  def _vectors(self, images):
    """Returns descriptors [1, D], [1, D], [K, D] of a tuple."""
    found = [self.net.describe(image[None]) for image in images]
    negatives = tf.concat(found[2:], 0) if found[2:] else found[0][:0]
    return found[0], found[1], negatives

  def _loss_gradients(self, query, positive, negatives):
    vectors = [query, positive, negatives]
    with tf.GradientTape() as tape:
      tape.watch(vectors)
      loss = self._loss(query, positive, negatives[None])
    return loss, tf.concat(tape.gradient(loss, vectors), 0)

  def _accumulate(self, images, upstream):
    with tf.GradientTape() as tape:
      vectors = self.net(images)
    gradients = tape.gradient(
      vectors,
      [weight.value for weight in self._weights],
      output_gradients=upstream,
      unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    for total, gradient in zip(self._sums, gradients, strict=True):
      total.assign_add(gradient)

  def _update(self, decay):
    """Makes one step; the decay of weights is Loshchilov and Hutter's.

    arXiv:1711.05101, algorithm 2: it is apart from the gradient, and falls as
    the learning rate does, but does not depend on it otherwise.
    """
    before = [tf.identity(weight.value) for weight in self._weights]
    self._optimizer.apply_gradients(
      zip([tf.identity(s) for s in self._sums], self._weights, strict=True)
    )
    for weight, old, total in zip(
      self._weights, before, self._sums, strict=True
    ):
      weight.assign(weight.value - decay * old)
      total.assign(tf.zeros_like(total))


FILE = "checkpoint.npz"
_BEST = "best"
_KIND = "a checkpoint of global training"
_TUPLES = ("qidxs", "pidxs", "nidxs")


@dataclasses.dataclass
class Place:
  """How far a run is.

  Attributes:
    epoch: Epochs that are over.
    batch: Batches of the next one that are over.
    distance: Average distance of its negatives when they were chosen.
    losses: Losses of its tuples so far.
    left_out: Tuples that could not be loaded, in all epochs.
    best_epoch: Epoch of the best network, from 1; 0 for none.
    best_score: Its score; lower is better.
    history: A dict of each epoch that is over.
  """

  epoch: int = 0
  batch: int = 0
  distance: float = 0.0
  losses: list = dataclasses.field(default_factory=list)
  left_out: int = 0
  best_epoch: int = 0
  best_score: float = math.inf
  history: list = dataclasses.field(default_factory=list)


def save(folder, place, data, learner):
  """Writes all that the rest of a run depends on, whole or not at all.

  Args:
    folder: pathlib.Path of the run.
    place: Place.
    data: tuples_dataset.TuplesDataset with the tuples of the epoch.
    learner: learning.Learner, just after an update.
  """
  arrays = {
    f"{i:04d}/{v.path}": np.asarray(v.value)
    for i, v in enumerate(learner.variables)
  }
  arrays |= {name: getattr(data, name) for name in _TUPLES}
  arrays["place"] = np.array(json.dumps(dataclasses.asdict(place)))
  with files.atomic_path(folder / FILE) as temporary:
    np.savez(temporary, **arrays)


def restore(folder, data, learner):
  """Reads what `save` wrote, if it is there.

  Args:
    folder: pathlib.Path of the run.
    data: tuples_dataset.TuplesDataset, which gets the tuples.
    learner: learning.Learner, which gets the variables.

  Returns:
    Place; that of a new run if there is no file.

  Raises:
    InputError: If it is another file, or of another network or data.
  """
  path = folder / FILE
  if not path.exists():
    return Place()
  arrays = base_arrays.read_npz(path, _KIND, ["place", *_TUPLES])
  try:
    place = Place(**json.loads(str(arrays["place"])))
  except (TypeError, ValueError):
    raise errors.InputError(_KIND, "one of another version", path) from None
  stored = {
    name.partition("/")[0]: name for name in arrays if name[:1].isdigit()
  }
  variables, count = learner.variables, len(learner.net.variables)
  if len(stored) != len(variables):
    raise errors.InputError(
      f"{_KIND} of {len(variables)} variables", f"{len(stored)}", path
    )
  for i, variable in enumerate(variables):
    name = stored.get(f"{i:04d}", "nothing")
    # Names of layers, and the optimizer's, count up within a program.
    leaf = variable.path.rpartition("/")[2] if i < count else ""
    fits = name.endswith(leaf) and name in arrays
    if not fits or arrays[name].shape != tuple(variable.shape):
      raise errors.InputError(
        f"{variable.path} {tuple(variable.shape)}",
        f"{name} {arrays[name].shape if name in arrays else ''}".rstrip(),
        path,
      )
  data.set_tuples(*(arrays[name] for name in _TUPLES))
  for i, variable in enumerate(variables):
    variable.assign(arrays[stored[f"{i:04d}"]])
  return place


def save_best(folder, net, epoch):
  """Writes the weights of the best network so far, beside older ones.

  Args:
    folder: pathlib.Path of the run.
    net: GlobalFeatureNet.
    epoch: Its epoch, from 1.
  """
  model_checkpoints.save_weights(net, folder / f"{_BEST}-{epoch:04d}")


def drop_older(folder, epoch):
  """Deletes weights of epochs that are not the best any more."""
  for path in folder.glob(f"{_BEST}-*"):
    if not path.name.startswith(f"{_BEST}-{epoch:04d}."):
      path.unlink()


def best_path(folder):
  """Returns the prefix of the best weights of a run.

  Args:
    folder: pathlib.Path of the run.

  Raises:
    FileNotFoundError: If there are none yet.
  """
  found = sorted(folder.glob(f"{_BEST}-*.index"))
  if not found:
    raise FileNotFoundError(
      f"{folder}: expected the weights {_BEST}-*.index of a run, found none"
    )
  return found[-1].with_suffix("")


WHITENING = "whitening.datum"


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of a run.

  Attributes:
    folder: pathlib.Path of the run.
    epochs: Epochs that are over.
    best_epoch: Epoch of the best network, from 1; 0 for none yet.
    best_score: Its score: validation loss, or less its mean average precision
      where there is no validation, or else its training loss.
    left_out: Tuples that could not be loaded.
    signal: Number of the signal that stopped it, or None.
    history: A dict of each epoch.
    whitened: dict by data set of what `evaluation.search` found in the end
      with a whitening; None without.
  """

  folder: object
  epochs: int
  best_epoch: int
  best_score: float
  left_out: int
  signal: int | None
  history: tuple
  whitened: dict | None = None


def fit(settings, make_net=global_model.GlobalFeatureNet):
  """Trains, and learns a whitening in the end if asked for.

  Args:
    settings: settings.Settings.
    make_net: Function of the arguments of GlobalFeatureNet that makes one.

  Returns:
    Report.

  Raises:
    FileNotFoundError: If data or a photo of it is missing.
    InputError: If a setting cannot be, data is other than it should be, there
      is a run that is not to go on or of other settings, or the loss is not
      finite.
    OSError: If a file cannot be written; what was saved before stays.
  """
  settings.check()
  data = _Data(settings)
  keras.utils.set_random_seed(settings.learning.seed)
  network = settings.network
  net = make_net(
    network.architecture,
    network.pooling,
    network.whitening,
    network.pretrained,
    settings.data.data_root,
  )
  folder = settings.open_folder()
  learner = Learner(net, settings.learning)
  place = restore(folder, data.train, learner)
  with concurrency.stop_on_signals() as stop, loop.Curves(folder) as writer:
    run = pairs_data.Epochs(settings, data, learner, folder, place, writer)
    ended = run.train(stop)
  whitened = _whiten(run.describer, net, data, folder) if ended else None
  return Report(
    folder=folder,
    epochs=place.epoch,
    best_epoch=place.best_epoch,
    best_score=place.best_score,
    left_out=place.left_out,
    signal=stop.signal,
    history=tuple(place.history),
    whitened=whitened,
  )


class _Data:
  """All that is read, checked before anything is computed."""

  def __init__(self, settings):
    data = settings.data
    options = {"seed": settings.learning.seed, "workers": data.workers}
    self.train = sfm120k.CreateDataset(
      "train",
      data.data_root,
      data.image_size,
      data.negatives,
      data.queries,
      data.pool,
      **options,
    )
    self.validation = None
    if data.validation or data.validation_2020:
      self.validation = sfm120k.CreateDataset(
        "val",
        data.data_root,
        data.image_size,
        data.negatives,
        math.inf,
        math.inf,
        data.validation_2020,
        **options,
      )
    for tuples in (self.train, self.validation):
      if tuples is None:
        continue
      listed = f"the {tuples.mode} part of {tuples.name}"
      pairs_data.require_files(tuples.images, listed)
      tuples.require_negatives()
    self.tests = pairs_data.open_tests(data.tests, data.data_root)
    self.whitening = None
    if data.whitening:
      pairs = pairs_data.whitening_paths(data.whitening, data.data_root)
      self.whitening = pairs


def _whiten(describer, net, data, folder):
  """Learns a whitening for the best network, and searches with it."""
  if data.whitening is None:
    return None
  model_checkpoints.load_weights(net, best_path(folder))
  whitening = pairs_data.learn_whitening(
    describer, data.whitening, folder / WHITENING
  )
  return {
    test["dataset"]: pairs_data.search(describer, test, whitening)
    for test in data.tests
  }


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
  stored = pairs_settings.read(folder / pairs_settings.FILE)
  network = stored.network
  net = make_net(
    network.architecture, network.pooling, network.whitening, False, ""
  )
  model_checkpoints.load_weights(net, best_path(folder))
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
  if (folder / WHITENING).exists():
    whitening = whiten.read_whitening(folder / WHITENING)
    if whitening[1].shape[1] != net.meta["outputdim"]:
      raise errors.InputError(
        f"a whitening of {net.meta['outputdim']} dimensions",
        f"one of {whitening[1].shape[1]}",
        folder / WHITENING,
      )
  descriptor = tf.function(
    _descriptor(net, whitening),
    input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)],
    autograph=False,
  )
  with exporting.destination(path, overwrite) as new:
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
