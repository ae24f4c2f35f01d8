"""Training of a global descriptor on tuples: query, positive, negatives."""

import dataclasses
import json
import math
import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from delf.base import arrays, errors, files, progress
from delf.formats import network_files
from delf.learning import loop, pairs_settings
from delf.learning.pairs_settings import CHECKPOINT, Learning, Settings
from delf.networks import exporting, model_checkpoints, signatures
from delf.python import whiten
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.datasets.utils import MEAN_BGR
from delf.python.training import global_features_utils
from delf.python.training.losses import ranking_losses
from delf.python.training.model import global_model
from delf.records import tuples

WHITENING = "whitening.datum"
BEST = "best"  # Weights of the best network: <BEST>-<epoch>.
_PROTOCOLS = ("easy", "medium", "hard")
# Power of the mean of GeM descriptors over scales (Radenovic et al.,
# arXiv:1711.02512, section 5.2).
_GEM_POWER = 3.0

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
  """Open data sets by `CreateConfigForTestDataset`; check that photos exist."""
  tests = [revisited.CreateConfigForTestDataset(n, data_root) for n in names]
  for test in tests:
    queries, index = _photos(test)
    require_files(queries + index, test["gnd_fname"])
  return tests


def _photos(test):
  """Return the paths of the queries and of the index images."""
  queries = [test["qim_fname"](test, i) for i in range(test["nq"])]
  return queries, [test["im_fname"](test, i) for i in range(test["n"])]


class Describer:
  """Computes descriptors of photos for the searches of a run."""

  def __init__(
    self, net: global_model.GlobalFeatureNet, data: pairs_settings.Data
  ):
    self._net, self._data = net, data
    gem = net.meta["pooling"] == "gem" and not net.meta["whitening"]
    self._power = _GEM_POWER if gem and len(data.scales) > 1 else 1.0

  def describe(
    self, paths: Sequence[str], boxes: Sequence | None = None
  ) -> np.ndarray:
    """Return descriptors float32 [D, N] of N photos, or of a box in each."""
    size, scales = self._data.image_size, self._data.scales
    options = boxes, scales, self._power
    return global_model.extract_global_descriptors_from_list(
      self._net, paths, size, *options, workers=self._data.workers
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
    index = whiten.apply_whitening(index, *whitening)
    queries = whiten.apply_whitening(queries, *whitening)
  ranks = np.argsort(-(queries.T @ index), axis=1, kind="stable")
  cutoffs = [rank for rank in (1, 5, 10) if rank <= ranks.shape[1]]
  metrics = global_features_utils.compute_metrics_and_print(
    test["dataset"], ranks, test["gnd"], cutoffs, log=False
  )
  means = (float(each[0]) for each in metrics)
  return dict(zip(_PROTOCOLS, means, strict=True))


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
    problem = "no whitening can be learned: too few or too similar pairs"
    raise errors.InputError(problem, path=path) from None
  whiten.write_whitening(path, *learned)
  return learned


def best_path(folder: pathlib.Path) -> pathlib.Path:
  """Return the prefix of the best weights of a run."""
  indices = sorted(folder.glob(f"{BEST}-*.index"))
  if not indices:
    problem = f"the folder has no weights {BEST}-*.index of a run"
    raise FileNotFoundError(f"{folder}: {problem}")
  return indices[-1].with_suffix("")


def load(
  folder: pathlib.Path, make_net: Callable = global_model.GlobalFeatureNet
) -> tuple[global_model.GlobalFeatureNet, pairs_settings.Settings]:
  """Load the best network of a run, and the run's settings."""
  stored = pairs_settings.read(folder / pairs_settings.FILE)
  network = dataclasses.replace(stored.network, pretrained=False)
  net = make_net(*dataclasses.astuple(network), "")
  model_checkpoints.load_weights(net, best_path(folder))
  return net, stored


def export(
  folder: pathlib.Path,
  path: pathlib.Path,
  overwrite: bool = False,
  make_net: Callable = global_model.GlobalFeatureNet,
) -> int:
  """Export the best network of a run, with its whitening, if any.

  The SavedModel has the signature of all exports of global descriptors, one
  unit descriptor for each scale; beside it is a `config.pbtxt` for extraction.
  Return the dimension of the descriptor.
  """
  net, stored = load(folder, make_net)
  whitening, file = None, folder / WHITENING
  if file.exists():
    whitening = whiten.read_whitening(file)
    size, dimension = whitening[1].shape[1], net.meta["outputdim"]
    if size != dimension:
      problem = (
        f"a whitening of {size} dimensions, but a network of {dimension}"
      )
      raise errors.InputError(problem, path=file)

  def describe(images):
    # Extraction normalizes pixels to (value - 128) / 128.
    pixels = tf.reverse(images * 128.0 + 128.0, [-1])
    vectors = net(pixels - np.array(MEAN_BGR, np.float32))
    if whitening is None:
      return vectors
    mean, projection = (np.asarray(x, np.float32) for x in whitening)
    vectors = (vectors - mean[:, 0]) @ projection.T
    return keras.ops.normalize(vectors, axis=-1)

  descriptor = tf.function(describe, [_IMAGES], autograph=False)
  with exporting.destination(path, overwrite) as new:
    functions = signatures.functions(
      types.SimpleNamespace(descriptor=descriptor),  # type: ignore[arg-type]
      network_files.Settings(network_files.GLOBAL),
    )
    exporting.save(functions, new)
    scales = (f"image_scales: {scale:.7g}" for scale in stored.data.scales)
    text = _CONFIGURATION.format(
      path=json.dumps(str(path.resolve()), ensure_ascii=False),
      scales="\n".join(scales),
      size=stored.data.image_size,
    )
    files.write_bytes(f"{new}/config.pbtxt", text.encode())
  return int(descriptor.get_concrete_function().outputs[0].shape[-1])


LOGS = "logs"
_KIND = "a checkpoint of global training"
_TUPLES = ("qidxs", "pidxs", "nidxs")

_IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32)
_VECTORS = tf.TensorSpec([None, None], tf.float32)


class TupleStepper:
  """A network, its optimizer, and gradients accumulated between updates.

  Images of a tuple differ in size, and are processed one at a time: first a
  forward pass of each, for the loss and its gradient with respect to the
  descriptors, then a forward and backward pass of each. Memory is that of one
  image, and images with a gradient of 0 (distant negatives) have no backward
  pass. The result is exact, since the network is deterministic.
  """

  def __init__(self, net: global_model.GlobalFeatureNet, learning: Learning):
    self.net, self._learning = net, learning
    kind = ranking_losses.TripletLoss
    if learning.loss == "contrastive":
      kind = ranking_losses.ContrastiveLoss
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

    def compiled(function, *signature):
      return tf.function(function, signature, autograph=False)

    self._gradients = compiled(self._loss_gradients, *[_VECTORS] * 3)
    self._back = compiled(self._accumulate, _IMAGES, _VECTORS)
    self._apply = compiled(self._update, tf.TensorSpec([], tf.float32))

  @property
  def variables(self) -> list:
    """All variables that a step changes, the network's first."""
    return self.net.variables + self._optimizer.variables

  @property
  def rate(self) -> float:
    """Learning rate of the last update."""
    return float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))

  def loss(self, images: Sequence[np.ndarray]) -> float:
    """Return the loss of a query, a positive and negatives, each [H, W, 3]."""
    return float(self._gradients(*self._vectors(images))[0])

  def learn(self, images: Sequence[np.ndarray]) -> float:
    """Return the loss of a tuple; accumulate its gradients if it is finite."""
    loss, upstream = self._gradients(*self._vectors(images))
    if not math.isfinite(loss):
      return float(loss)
    upstream = np.asarray(upstream)
    for image, vector in zip(images, upstream, strict=True):
      if vector.any():
        self._back(tf.constant(image[None]), tf.constant(vector[None]))
    return float(loss)

  def update(self, epochs: float) -> None:
    """Apply accumulated gradients, with the learning rate after `epochs`."""
    # Radenovic et al., arXiv:1711.02512, section 4.2.
    decay = math.exp(-0.01 * epochs)
    self._optimizer.learning_rate.assign(self._learning.rate * decay)
    self._apply(tf.constant(self._learning.weight_decay * decay, tf.float32))

  def _vectors(self, images):
    """Return descriptors [1, D], [1, D], [K, D] of a tuple."""
    vectors = [self.net.describe(image[None]) for image in images]
    negatives = tf.concat(vectors[2:], 0) if vectors[2:] else vectors[0][:0]
    return vectors[0], vectors[1], negatives

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
    # Decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101, algorithm
    # 2): it follows the schedule of the learning rate, not its value.
    before = [tf.identity(weight.value) for weight in self._weights]
    self._optimizer.apply_gradients(
      zip([tf.identity(s) for s in self._sums], self._weights, strict=True)
    )
    weights = zip(self._weights, before, self._sums, strict=True)
    for weight, old, total in weights:
      weight.assign(weight.value - decay * old)
      total.assign(tf.zeros_like(total))


@dataclasses.dataclass
class Place:
  """Progress of a run, stored in its checkpoint."""

  epoch: int = 0  # Completed epochs.
  batch: int = 0  # Completed batches of the current epoch.
  distance: float = 0.0  # Mean distance of its negatives when they were chosen.
  # Losses of its tuples.
  losses: list[float] = dataclasses.field(default_factory=list)
  left_out: int = 0  # Tuples that could not be loaded, in all epochs.
  best_epoch: int = 0  # Epoch of the best network, from 1; 0 for none.
  # Score of the best network, lower is better: validation loss or, without
  # validation, negative mean average precision of searches, or training loss.
  best_score: float = math.inf
  # Metrics of each completed epoch.
  history: list[dict[str, float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Report:
  """Result of a run."""

  folder: pathlib.Path
  place: Place
  signal: int | None  # Number of the signal that stopped the run.
  # Metrics of searches with whitening after training, by data set.
  whitened: dict[str, dict[str, float]] | None = None


def fit(
  settings: Settings, make_net: Callable = global_model.GlobalFeatureNet
) -> Report:
  """Train a network and, if the settings request it, learn a whitening.

  `make_net` creates a network from the arguments of GlobalFeatureNet.

  Raises:
    FileNotFoundError: If data or photos are missing.
    InputError: If a setting or the data is out of range, the folder has a run
      that must not be resumed or has other settings, or the loss is not finite.
  """
  settings.check()
  data = _open_data(settings)
  keras.utils.set_random_seed(settings.learning.seed)
  network = dataclasses.astuple(settings.network)
  net = make_net(*network, settings.data.data_root)
  folder = settings.open_folder()
  training = _Training(settings, data, net, folder)
  budget = loop.Budget(epochs=settings.learning.epochs)
  observers = [_Curves(), loop.Live(budget)]
  signal = loop.run(training, budget, observers, training.is_save_due)
  place, whitened = training.place, None
  if data.whitening is not None and place.epoch >= settings.learning.epochs:
    model_checkpoints.load_weights(net, best_path(folder))
    whitening = learn_whitening(
      training.describer, data.whitening, folder / WHITENING
    )
    whitened = {
      test["dataset"]: search(training.describer, test, whitening)
      for test in data.tests
    }
  return Report(folder, place, signal, whitened)


def _open_data(settings):
  """Open and check all data, before any computation."""
  data = settings.data

  def create(mode, queries, pool, *eccv2020):
    made = sfm120k.CreateDataset(
      mode,
      data.data_root,
      data.image_size,
      data.negatives,
      queries,
      pool,
      *eccv2020,
      seed=settings.learning.seed,
      workers=data.workers,
    )
    listed = f"the {made.mode} part of {made.name}"
    require_files(made.images, listed)
    made.require_negatives()
    return made

  opened = types.SimpleNamespace(validation=None, whitening=None)
  opened.train = create("train", data.queries, data.pool)
  if data.validation or data.validation_2020:
    opened.validation = create("val", math.inf, math.inf, data.validation_2020)
  opened.tests = open_tests(data.tests, data.data_root)
  if data.whitening:
    opened.whitening = whitening_pairs(data.whitening, data.data_root)
  return opened


class _Training(loop.Learner):
  """Learner of tuples; a step is an update with the gradients of some batches.

  `step` counts batches over all epochs; `details` are points of the loss curve,
  pairs of batch and metrics.
  """

  rate_flag = "--lr"

  def __init__(self, settings, data, net, folder):
    self._settings, self._data, self._folder = settings, data, folder
    self.train_logs = folder / LOGS
    self._stepper = TupleStepper(net, settings.learning)
    self._train, self._size = data.train, settings.learning.batch
    self._failed = 0
    self.describer = Describer(net, settings.data)
    self.place = Place()

  @property
  def epoch(self):  # type: ignore[override]
    # An epoch is complete when its measurement is.
    return self.place.epoch + self.place.batch / (self._number() + 1)

  def resume(self):
    path = self._folder / CHECKPOINT
    if not path.exists():
      return
    stored = arrays.read_npz(path, _KIND, ["place", *_TUPLES])
    try:
      place = Place(**json.loads(str(stored["place"])))
    except (TypeError, ValueError):
      problem = f"{_KIND} of another version"
      raise errors.InputError(problem, path=path) from None
    variables = self._stepper.variables
    number = sum(name[:1].isdigit() for name in stored)
    if number != len(variables):
      problem = f"{_KIND} with {number} variables, not {len(variables)}"
      raise errors.InputError(problem, path=path)
    # Names of the optimizer's variables are numbered anew in each process.
    named = len(self._stepper.net.variables)
    loop.assign_state(variables, stored, path, named)
    self._train.set_tuples(*(stored[name] for name in _TUPLES))
    self.place, self.checkpoint = place, path
    self.step = self._batches(place.batch)

  def save(self):
    path = self._folder / CHECKPOINT
    extra = {name: getattr(self._train, name) for name in _TUPLES}
    extra["place"] = np.array(json.dumps(dataclasses.asdict(self.place)))
    loop.write_state(path, self._stepper.variables, digits=4, **extra)
    return path

  def is_save_due(self, *_):
    """Return whether to save: at the end of epochs, and each few batches."""
    every, batch = self._settings.save_every, self.place.batch
    return batch == self._number() or (every and batch % every == 0)

  def batches(self):
    """Yield ranges of batches, one per remaining update of the epoch."""
    place, train = self.place, self._train
    if not place.batch and not len(train):
      place.distance = train.create_epoch_tuples(self._stepper.net, place.epoch)
      place.losses = []
      self.checkpoint = self.save()
    number = -(-len(train) // self._size)
    self._futures = train.load(range(place.batch * self._size, len(train)))
    every = self._settings.learning.update_every
    for first in range(place.batch, number, every):
      yield range(first, min(first + every, number))

  def learn(self, batch, spent):
    place, self.details = self.place, []
    for number in batch:
      for _ in range(min(self._size, len(self._train) - number * self._size)):
        loss = self._learn(next(self._futures))
        if loss is not None and not math.isfinite(loss):
          self._failed = number + 1
          return {"loss": loss}
        if loss is not None:
          place.losses.append(loss)
      if (number + 1) % self._settings.print_every == 0:
        mean = _mean(place.losses[-self._size :])
        self.details.append((self._batches(number + 1), {"loss/batch": mean}))
    place.batch = batch.stop
    self._stepper.update(place.epoch + place.batch / self._number())
    self.step = self._batches(place.batch)
    return {"loss": _mean(place.losses)} if place.losses else {}

  def _learn(self, future):
    """Return the loss of a tuple, or None if it cannot be loaded."""
    try:
      *images, _ = future.result()
      return self._stepper.learn(images)
    except (errors.InputError, OSError) as error:
      logging.warning("left out: %s", errors.one_line(error))
      self.place.left_out += 1
      return None

  def describe(self, batch):
    return f"epoch {self.place.epoch + 1}, batch {self._failed}"

  def measure(self):
    """End the epoch: measure, keep the best network, and save."""
    place, folder, settings = self.place, self._folder, self._settings
    epoch = place.epoch + 1
    if not place.losses:
      problem = f"no tuples to learn from in epoch {epoch}: all were left out"
      raise errors.InputError(problem, path=folder)
    metrics = {"negative_distance": place.distance}
    metrics["loss/train"] = _mean(place.losses)
    last = epoch == settings.learning.epochs
    if last or epoch % settings.test_every == 0:
      metrics |= self._evaluate()
    score = self._score(metrics)
    better = score is not None and score < place.best_score
    if better or (last and not place.best_epoch):
      place.best_score = math.inf if score is None else score
      place.best_epoch = epoch
      best = folder / f"{BEST}-{epoch:04d}"
      model_checkpoints.save_weights(self._stepper.net, best)
    text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    logging.info("epoch %d: %s", epoch, text)
    place.history.append({"epoch": epoch} | metrics)
    place.epoch, place.batch, place.losses = epoch, 0, []
    none = np.zeros([0], np.int64)
    negatives = np.zeros([0, settings.data.negatives], np.int64)
    self._train.set_tuples(none, none, negatives)
    self.checkpoint = self.save()
    for path in folder.glob(f"{BEST}-*"):
      if not path.name.startswith(f"{BEST}-{place.best_epoch:04d}."):
        path.unlink()
    return metrics | {"learning_rate": self._stepper.rate}

  def _evaluate(self):
    """Return metrics of validation and searches."""
    metrics, validation = {}, self._data.validation
    if validation is not None:
      validation.create_epoch_tuples(self._stepper.net, self.place.epoch)
      losses = []
      futures = validation.load(range(len(validation)))
      for future in progress.track(futures, "validation", len(validation)):
        try:
          losses.append(self._stepper.loss(future.result()[:-1]))
        except (errors.InputError, OSError) as error:
          logging.warning("left out: %s", errors.one_line(error))
      metrics["loss/validation"] = _mean(losses)
    for test in self._data.tests:
      for protocol, value in search(self.describer, test).items():
        metrics[f"{test['dataset']}/{protocol}"] = value
    return metrics

  def _score(self, metrics):
    """Return the score of the network, lower is better, or None."""
    if self._data.validation is not None:
      return metrics.get("loss/validation")
    if self._data.tests:
      values = [v for k, v in metrics.items() if k.endswith("/medium")]
      return -float(np.nanmean(values)) if values else None
    return metrics["loss/train"]

  def _number(self):
    """Return the number of batches of this epoch."""
    return max(1, -(-len(self._train) // self._size))

  def _batches(self, batch):
    """Return the number of a batch of this epoch over all epochs."""
    queries = min(self._settings.data.queries, len(self._train.query_pool))
    return self.place.epoch * -(-queries // self._size) + batch


class _Curves(loop.BoardObserver):
  """Writes losses and metrics for TensorBoard."""

  def on_step(self, _, metrics, details):
    for place, values in details:
      self.write(place, values)
    if details:
      self.flush()

  def on_measure(self, step, metrics):
    self.write(step, metrics)
    self.flush()


def _mean(values):
  return float(np.mean(values)) if len(values) else math.nan
