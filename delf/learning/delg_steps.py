"""Training and validation steps of DELF and DELG, on one or several devices."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from delf.base import errors
from delf.learning import loop
from delf.learning.delg_settings import Execution, Network, Settings
from delf.networks import backbones, model_checkpoints
from delf.python.training.model import delf_model, delg_model

# Tags of metrics in TensorBoard.
DESCRIPTOR = "loss/desc/crossentropy"
ATTENTION = "loss/attn/crossentropy"
RECONSTRUCTION = "loss/recon/mse"
REGULARIZATION = "loss/regularization"
TOTAL = "loss/total"
ACCURACY = {"desc": "train_accuracy/desc", "attn": "train_accuracy/attn"}
GRADIENT_NORM = "gradient_norm"
LEARNING_RATE = "learning_rate"

# Blocks of the backbone whose sparsity is reported.
_BLOCKS = ("block0", "block0mp", "block1", "block2", "block3", "block4")
# Counts of a validation: correct predictions by classifier, and photos.
_COUNTS = ("desc", "attn", "number")
_SUM = tf.distribute.ReduceOp.SUM


def strategy(execution: Execution) -> tf.distribute.Strategy:
  """Return the distribution strategy for the devices of a run."""
  logical = tf.config.list_logical_devices()
  known = [device.name.removeprefix("/device:") for device in logical]
  names = [name for name in known if name.startswith("GPU:")]
  if execution.devices is not None:
    # "gpu:0", "/GPU:0" and "/device:GPU:0" are "GPU:0".
    names = [
      name.strip().upper().removeprefix("/").removeprefix("DEVICE:")
      for name in execution.devices
    ]
  for name in names:
    if name not in known or names.count(name) > 1:
      raise errors.InputError(
        f"--devices {name!r}: give devices of {', '.join(known)}, each once"
      )
  paths = [f"/device:{name}" for name in names]
  if len(paths) > 1:
    return tf.distribute.MirroredStrategy(paths)
  if paths:
    return tf.distribute.OneDeviceStrategy(paths[0])
  return tf.distribute.get_strategy()


class Momentum:
  """SGD with momentum for gradients that are summed over the devices.

  Keras's optimizers clip the gradients of each device before the sum, and
  change the keys of their state from release to release.
  """

  def __init__(self, variables: Sequence[tf.Variable], momentum: float):
    """Create the state, in the scope of a strategy."""
    self._variables, self._momentum = variables, momentum
    self.iterations = tf.Variable(
      0, dtype=tf.int64, trainable=False, name="iterations"
    )
    self.learning_rate = tf.Variable(
      0.0, dtype=tf.float32, trainable=False, name="learning_rate"
    )
    extended = tf.distribute.get_strategy().extended
    self._updates = []
    for variable in variables:
      with extended.colocate_vars_with(variable):
        update = tf.Variable(tf.zeros_like(variable), trainable=False)
      self._updates.append(update)

  def trackables(self) -> dict[str, Any]:
    """Return the state as an argument of `tf.train.Checkpoint`."""
    return {
      "_iterations": self.iterations,
      "_learning_rate": self.learning_rate,
      "_variables": {str(i): u for i, u in enumerate(self._updates, start=1)},
    }

  def by_key(self) -> dict[str, tf.Variable]:
    """Return the state by its path in a checkpoint."""
    state = self.trackables()
    for number, update in state.pop("_variables").items():
      state[f"_variables/{number}"] = update
    return {f"optimizer/{name}": variable for name, variable in state.items()}

  def apply(
    self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, most: float
  ) -> tf.Tensor:
    """Update the variables in a replica's context; return the gradients' norm.

    Gradients are summed over the replicas, and clipped to the global norm
    `most`.
    """
    norm = tf.linalg.global_norm(gradients)
    # Scale the rate, not the gradients, which are the largest arrays of a step.
    scale = most / tf.maximum(norm, most)
    context = tf.distribute.get_replica_context()
    context.merge_call(self._apply, args=(gradients, rate, rate * scale))
    return norm

  def _apply(self, strategy, gradients, rate, scaled):
    update = strategy.extended.update
    state = zip(self._variables, self._updates, gradients, strict=True)
    for variable, last, gradient in state:
      args = (last, gradient, scaled)
      update(variable, self._move, args=args, group=False)

    def assign(variable, value):
      variable.assign(value)

    def count(variable):
      variable.assign_add(1)

    update(self.learning_rate, assign, args=(rate,), group=False)
    update(self.iterations, count, group=False)

  def _move(self, variable, last, gradient, rate):
    """Set `last` to momentum * last - rate * gradient, and add it."""
    tf.raw_ops.ResourceApplyKerasMomentum(
      var=variable.handle,
      accum=last.handle,
      lr=rate,
      grad=gradient,
      momentum=self._momentum,
    )


def make_model(network: Network, num_classes: int) -> delf_model.Delf:
  """Create a Delf or Delg with its classifiers and all its variables."""
  options: dict[str, Any] = {
    "backbone": network.backbone,
    "block3_strides": network.block3_strides,
    "use_dim_reduction": network.use_autoencoder,
    "reduced_dimension": int(network.autoencoder_dimensions),
    "dim_expand_channels": int(network.local_feature_map_channels),
  }
  with _precision(network.precision):
    if network.delg:
      model = delg_model.Delg(
        gem_power=network.gem_power,
        embedding_layer_dim=network.embedding_layer_dim,
        scale_factor_init=network.scale_factor_init,
        arcface_margin=network.arcface_margin,
        **options,
      )
    else:
      model = delf_model.Delf(**options)
    model.init_classifiers(num_classes)
  for layer in _normalizations(model):
    layer.synchronized = network.normalization == "synchronized"
  return model


def load_initial_weights(model: delf_model.Delf, network: Network) -> None:
  """Load the weights that a new run starts from, if any."""
  if network.imagenet_checkpoint:
    if not hasattr(model.backbone, "restore_weights"):
      raise errors.InputError(
        f"the backbone {network.backbone!r} cannot start from ImageNet "
        "weights: leave out --imagenet_checkpoint"
      )
    model.backbone.restore_weights(network.imagenet_checkpoint)
  if network.initial_weights:
    free = model_checkpoints.TRAINING_ONLY
    model_checkpoints.load_weights(
      model, network.initial_weights, unused=free, missing=free
    )


@contextlib.contextmanager
def _precision(name):
  """Set the precision of layers created in the context."""
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(name)
  try:
    yield
  finally:
    keras.config.set_dtype_policy(before)


def _normalizations(model):
  layers = backbones.layers_by_path(model).values()
  kind = keras.layers.BatchNormalization
  return [layer for layer in layers if isinstance(layer, kind)]


def _forward(model, images, labels, training, normalize_by_batch):
  """Run a model up to logits [B, classes]; `training` adds ArcFace's margin."""
  descriptor, feature, attention, blocks, expanded, _ = (
    model.global_and_local_forward_pass(images, training=normalize_by_batch)
  )
  # Logits and losses are float32 whatever the precision of the network.
  descriptor = tf.cast(descriptor, tf.float32)
  if isinstance(model, delg_model.Delg):
    logits = model.desc_classification(descriptor, labels, training=training)
  else:
    logits = model.desc_classification(descriptor)
  return {
    "desc_logits": tf.cast(logits, tf.float32),
    "attn_logits": tf.cast(model.attn_classification(feature), tf.float32),
    "attention": attention,
    "blocks": blocks,
    "expanded": expanded,
  }


def _losses(model, outputs, labels, batch_size, replicas):
  """Return the losses of one device's share of a batch, by tag."""
  # Their sum over the devices is the loss of the whole batch: classification
  # is a mean over the batch, reconstruction a mean over the devices, and
  # regularization, which does not depend on the examples, counts once.
  entropies = {
    tag: tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs[name])
    for tag, name in ((DESCRIPTOR, "desc_logits"), (ATTENTION, "attn_logits"))
  }
  result = {t: tf.reduce_sum(e) / batch_size for t, e in entropies.items()}
  if outputs["expanded"] is not None:
    local = tf.cast(tf.stop_gradient(outputs["blocks"]["block3"]), tf.float32)
    error = local - tf.cast(outputs["expanded"], tf.float32)
    result[RECONSTRUCTION] = tf.reduce_mean(tf.square(error)) / replicas
  result[REGULARIZATION] = tf.add_n([0.0, *model.losses]) / replicas
  return result


def _predictions(outputs):
  """Return the most likely classes, int64 [B], by classifier."""
  return {n: tf.argmax(outputs[f"{n}_logits"], axis=1) for n in ACCURACY}


def _sparsity(blocks, replicas, look):
  """Return the shares of zeros in feature maps, by tag; 0 without `look`."""
  present = {f"sparsity/{n}": blocks[n] for n in _BLOCKS if n in blocks}
  return tf.cond(
    look,
    lambda: {t: tf.nn.zero_fraction(b) / replicas for t, b in present.items()},
    lambda: dict.fromkeys(present, tf.constant(0.0)),
  )


@dataclasses.dataclass(frozen=True)
class Batch:
  """Inputs and outputs of a step, over all devices."""

  images: np.ndarray  # float32 [B, H, W, 3], normalised.
  labels: np.ndarray  # int64 [B].
  guesses: Mapping[str, np.ndarray]  # "desc" and "attn" to int64 [B].
  attention: np.ndarray  # float32 [B, H', W', 1].
  sparsity: Mapping[str, float]  # Shares of zeros in feature maps, by tag.


class Stepper:
  """The model with its classifiers and optimizer, and their compiled steps."""

  def __init__(self, settings: Settings, strategy: tf.distribute.Strategy):
    normalization = settings.network.normalization
    self._settings, self.strategy = settings, strategy
    self._replicas = strategy.num_replicas_in_sync
    synchronized = normalization == "synchronized" and self._replicas > 1
    if settings.execution.xla and synchronized:
      raise errors.InputError(
        "--normalization=synchronized does not work with --xla on several "
        "devices: use batch or frozen, or leave out --xla"
      )
    batch_size = settings.data.batch_size
    if batch_size % self._replicas:
      raise errors.InputError(
        f"--batch_size must be a multiple of {self._replicas}, the number of "
        f"devices, not {batch_size}"
      )
    with strategy.scope():
      self.model = make_model(settings.network, settings.data.num_classes)
      # The order of the slots in the original's checkpoints.
      self._trained = [v.value for v in self.model.trainable_variables]
      self.optimizer = Momentum(self._trained, settings.learning.momentum)
    self._by_batch = normalization != "frozen"
    # Moving averages that each device updates separately.
    self._averages = []
    if self._replicas > 1 and normalization == "batch":
      self._averages = [
        variable.value
        for layer in _normalizations(self.model)
        for variable in (layer.moving_mean, layer.moving_variance)
      ]
    self._compile()

  def _compile(self):
    execution = self._settings.execution
    self._gradients = self._find_gradients
    self._train, self._validate = self._train_all, self._validate_all
    if execution.eager:
      return

    # AutoGraph is slow, and there is no Python control flow to convert.
    def compiled(function, **options):
      return tf.function(function, autograph=False, **options)

    if execution.xla:
      self._gradients = compiled(self._find_gradients, jit_compile=True)
    self._train = compiled(self._train_all)
    self._validate = compiled(self._validate_all, reduce_retracing=True)

  @property
  def step(self) -> int:
    """Number of steps made."""
    return int(self.optimizer.iterations.numpy())

  def is_finite(self) -> bool:
    """Return whether all variables of the model are finite."""
    finite = (tf.math.is_finite(v.value) for v in self.model.variables)
    return all(bool(tf.reduce_all(each)) for each in finite)

  def distribute(self, dataset: tf.data.Dataset) -> Any:
    """Return an iterable over batches that are split among the devices."""
    if self._replicas == 1:
      return dataset
    return self.strategy.experimental_distribute_dataset(dataset)

  def train(
    self, images: Any, labels: Any, look: bool
  ) -> tuple[dict[str, float], Callable[[], Batch]]:
    """Make one step; return its metrics, and a function that gathers the Batch.

    Images float32 [B, H, W, 3] and labels int64 [B] are from `distribute`;
    without `look`, sparsities are not computed, and 0.
    """
    metrics, sparsity, outputs = self._train(images, labels, tf.constant(look))
    metrics = {name: float(value) for name, value in metrics.items()}

    def gather(value):
      parts = self.strategy.experimental_local_results(value)
      return tf.concat(parts, axis=0).numpy()

    def batch():
      return Batch(
        gather(images),
        gather(labels),
        {name: gather(outputs[name]) for name in ACCURACY},
        gather(outputs["attention"]),
        {name: float(value) for name, value in sparsity.items()},
      )

    return metrics, batch

  def validate(self, images: Any, labels: Any) -> dict[str, int]:
    """Count correct predictions, "desc" and "attn", and photos, "number"."""
    counts = self._validate(images, labels)
    return {name: int(value) for name, value in counts.items()}

  def _reduce(self, values):
    add = self.strategy.reduce
    return {name: add(_SUM, value, axis=None) for name, value in values.items()}

  def _train_all(self, images, labels, look):
    metrics, sparsity, outputs = self.strategy.run(
      self._train_one, args=(images, labels, look)
    )
    return self._reduce(metrics), self._reduce(sparsity), outputs

  def _train_one(self, images, labels, look):
    """Train on one device's share of a batch."""
    gradients, metrics, sparsity, outputs = self._gradients(
      images, labels, look
    )
    averages = [tf.identity(average) for average in self._averages]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(_SUM, [*gradients, *averages])
    gradients = summed[: len(gradients)]
    # Stored averages, which validation uses, are those of the whole batch.
    totals = summed[len(gradients) :]
    for average, total in zip(self._averages, totals, strict=True):
      average.assign(total / self._replicas)
    learning, step = self._settings.learning, self.optimizer.iterations
    steps = learning.max_iters, learning.warm_up
    rate = loop.linear_rate(learning.initial_lr, step, *steps)
    norm = self.optimizer.apply(gradients, rate, learning.clip_norm)
    same = {GRADIENT_NORM: norm, LEARNING_RATE: rate}
    if hasattr(self.model, "scale_factor"):
      same["desc/scale_factor"] = self.model.scale_factor.value
    metrics |= {n: value / self._replicas for n, value in same.items()}
    return metrics, sparsity, outputs

  def _find_gradients(self, images, labels, look):
    """Return gradients and metrics of one device's share of a batch."""
    learning, replicas = self._settings.learning, self._replicas
    batch_size = self._settings.data.batch_size
    with tf.GradientTape() as tape:
      outputs = _forward(self.model, images, labels, True, self._by_batch)
      parts = _losses(self.model, outputs, labels, batch_size, replicas)
      loss = (
        parts[DESCRIPTOR]
        + learning.attention_loss_weight * parts[ATTENTION]
        + learning.reconstruction_loss_weight * parts.get(RECONSTRUCTION, 0.0)
        + parts[REGULARIZATION]
      )
    gradients = tape.gradient(
      loss, self._trained, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    details = _predictions(outputs)
    metrics = parts | {TOTAL: loss}
    for name, tag in ACCURACY.items():
      right = tf.cast(details[name] == tf.cast(labels, tf.int64), tf.float32)
      metrics[tag] = tf.reduce_sum(right) / batch_size
    details["attention"] = outputs["attention"]
    sparsity = _sparsity(outputs["blocks"], replicas, look)
    return gradients, metrics, sparsity, details

  def _validate_all(self, images, labels):
    counts = self.strategy.run(self._validate_one, args=(images, labels))
    return self._reduce(counts)

  def _validate_one(self, images, labels):
    labels = tf.cast(labels, tf.int64)
    # The last batch may leave a device without photos; layers need one or more.
    return tf.cond(
      tf.size(labels) > 0,
      lambda: self._count_right(images, labels),
      lambda: dict.fromkeys(_COUNTS, tf.constant(0, tf.int64)),
    )

  def _count_right(self, images, labels):
    # The same pass as in training, where attention uses autoencoder outputs.
    outputs = _forward(self.model, images, labels, False, False)
    counts = {
      name: tf.reduce_sum(tf.cast(classes == labels, tf.int64))
      for name, classes in _predictions(outputs).items()
    }
    return counts | {"number": tf.size(labels, tf.int64)}
