"""One step of training or validation, on one device or several."""

import contextlib

import keras
import tensorflow as tf

from delf.base import errors
from delf.networks import layer_paths, model_checkpoints
from delf.python.training.model import delf_model, delg_model


class Momentum:
  """SGD with momentum, of gradients that are reduced over the devices already.

  Keras's optimisers clip the gradients of each device before they are summed,
  and store their state under other keys from release to release.

  Attributes:
    iterations: Steps made, int64.
    learning_rate: Of the last step, float32.
  """

  def __init__(self, variables, momentum):
    """Makes the state, zero; in the scope of a strategy.

    Args:
      variables: list of tf.Variable to train, in the original's order.
      momentum: Share of the last update that the next one repeats.
    """
    self._variables = variables
    self._momentum = momentum
    self.iterations = tf.Variable(
      0, dtype=tf.int64, trainable=False, name="iterations"
    )
    self.learning_rate = tf.Variable(
      0.0, dtype=tf.float32, trainable=False, name="learning_rate"
    )
    strategy = tf.distribute.get_strategy()
    self._updates = []
    for variable in variables:
      with strategy.extended.colocate_vars_with(variable):
        update = tf.Variable(tf.zeros_like(variable), trainable=False)
      self._updates.append(update)

  def trackables(self):
    """Returns the state as `tf.train.Checkpoint` takes it."""
    return {
      "_iterations": self.iterations,
      "_learning_rate": self.learning_rate,
      "_variables": {
        str(i): update for i, update in enumerate(self._updates, start=1)
      },
    }

  def by_key(self):
    """Returns a dict of path in a checkpoint to tf.Variable."""
    paths = {
      f"_variables/{i}": update
      for i, update in enumerate(self._updates, start=1)
    }
    paths["_iterations"] = self.iterations
    paths["_learning_rate"] = self.learning_rate
    return {f"optimizer/{name}": variable for name, variable in paths.items()}

  def apply(self, gradients, rate, most):
    """Makes one step, in the context of a replica.

    Args:
      gradients: list of tensors, summed over the replicas.
      rate: Learning rate, float32 scalar.
      most: Norm of all gradients over which they are scaled down to it.

    Returns:
      float32 scalar, the norm before that.
    """
    norm = tf.linalg.global_norm(gradients)
    # The rate is scaled in place of the gradients: these are the largest
    # arrays of a step. A norm that is no number stays none.
    scale = most / tf.maximum(norm, most)
    context = tf.distribute.get_replica_context()
    context.merge_call(self._apply, args=(gradients, rate, rate * scale))
    return norm

  def _apply(self, strategy, gradients, rate, scaled):
    update = strategy.extended.update
    for variable, last, gradient in zip(
      self._variables, self._updates, gradients, strict=True
    ):
      args = (last, gradient, scaled)
      update(variable, self._move, args=args, group=False)
    update(self.learning_rate, _set, args=(rate,), group=False)
    update(self.iterations, _count, group=False)

  def _move(self, variable, last, gradient, rate):
    """Makes `last` momentum * last - rate * gradient, and adds it."""
    tf.raw_ops.ResourceApplyKerasMomentum(
      var=variable.handle,
      accum=last.handle,
      lr=rate,
      grad=gradient,
      momentum=self._momentum,
    )


def _count(variable):
  variable.assign_add(1)


def _set(variable, value):
  variable.assign(value)


def rate_momentum(step, learning):
  """Returns the learning rate of a step.

  Args:
    step: Steps made before, int scalar.
    learning: settings.Learning.

  Returns:
    float32 scalar: it falls linearly to 0 at `max_iters`, and before that rises
    from 0 within `warm_up` steps.
  """
  step = tf.cast(step, tf.float32)
  left = tf.maximum(0.0, 1.0 - step / learning.max_iters)
  warm = tf.minimum(1.0, (step + 1.0) / max(1, learning.warm_up))
  return learning.initial_lr * left * warm


def make(network, num_classes):
  """Makes a model with its classifiers.

  Args:
    network: settings.Network.
    num_classes: Number of classes.

  Returns:
    delf_model.Delf, or delg_model.Delg; all its variables exist.

  Raises:
    InputError: If there is no such backbone.
  """
  options = {
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
  for layer in layer_paths.layers_by_path(model).values():
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.synchronized = network.normalization == "synchronized"
  return model


def start(model, network):
  """Gives a model the weights that a new run starts from, if there are any.

  Args:
    model: Of `make`.
    network: settings.Network.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is of another model.
  """
  if network.imagenet_checkpoint:
    if not hasattr(model.backbone, "restore_weights"):
      raise errors.InputError(
        "a backbone that ImageNet weights are for", repr(network.backbone)
      )
    model.backbone.restore_weights(network.imagenet_checkpoint)
  if network.initial_weights:
    model_checkpoints.load_weights(
      model,
      network.initial_weights,
      unused=model_checkpoints.TRAINING_ONLY,
      missing=model_checkpoints.TRAINING_ONLY,
    )


@contextlib.contextmanager
def _precision(name):
  """Has the layers that are made within compute in a precision."""
  before = keras.config.dtype_policy()
  keras.config.set_dtype_policy(name)
  try:
    yield
  finally:
    keras.config.set_dtype_policy(before)


# Metrics by the tags that users know from TensorBoard.
DESCRIPTOR = "loss/desc/crossentropy"
ATTENTION = "loss/attn/crossentropy"
RECONSTRUCTION = "loss/recon/mse"
REGULARIZATION = "loss/regularization"
TOTAL = "loss/total"
ACCURACY = {"desc": "train_accuracy/desc", "attn": "train_accuracy/attn"}

# Blocks of the backbone whose zeros are counted.
_BLOCKS = ("block0", "block0mp", "block1", "block2", "block3", "block4")


def forward(model, images, labels, training, normalize_by_batch):
  """Runs a model up to its logits.

  Args:
    model: delf_model.Delf with classifiers.
    images: Float [B, H, W, 3], normalised.
    labels: Int [B].
    training: Whether ArcFace's margin is added.
    normalize_by_batch: Whether batch normalisation uses the batch.

  Returns:
    dict: `desc_logits`, `attn_logits` float32 [B, classes]; `attention` float
    [B, H', W', 1]; `blocks` dict of feature maps; `expanded` float [B, H', W',
    C], or None.
  """
  descriptor, feature, attention, blocks, expanded, _ = (
    model.global_and_local_forward_pass(images, training=normalize_by_batch)
  )
  # Logits and losses are float32 whatever the network computes with.
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


def losses(model, outputs, labels, batch_size, replicas):
  """Returns the losses of one device's share of a batch.

  The sum over the devices is the loss of the whole batch: of examples it is the
  mean over the batch, of reconstructions the mean over the devices, and what
  does not depend on the examples counts once.

  Args:
    model: As for `forward`.
    outputs: What `forward` returned.
    labels: Int [B].
    batch_size: Number of examples over all devices.
    replicas: Number of devices.

  Returns:
    dict of tag to float32 scalar, without weights and total; RECONSTRUCTION is
    there where there is an autoencoder.
  """
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


def total(parts, learning):
  """Returns the weighted sum of losses.

  Args:
    parts: dict of `losses`.
    learning: settings.Learning.

  Returns:
    float32 scalar.
  """
  return (
    parts[DESCRIPTOR]
    + learning.attention_loss_weight * parts[ATTENTION]
    + learning.reconstruction_loss_weight * parts.get(RECONSTRUCTION, 0.0)
    + parts[REGULARIZATION]
  )


def guesses(outputs):
  """Returns the most likely classes, dict of "desc" and "attn" to int64 [B]."""
  return {
    name: tf.argmax(outputs[f"{name}_logits"], axis=1)
    for name in ("desc", "attn")
  }


def sparsity_tags(blocks):
  """Returns the tags of `sparsity`."""
  return [f"sparsity/{name}" for name in _BLOCKS if name in blocks]


def sparsity_objectives(blocks, replicas):
  """Returns the shares of zeros in feature maps.

  Args:
    blocks: dict of name to float [B, H, W, C].
    replicas: Number of devices, over which the shares are to be summed.

  Returns:
    dict of tag to float32 scalar.
  """
  return {
    tag: tf.nn.zero_fraction(blocks[tag.rpartition("/")[2]]) / replicas
    for tag in sparsity_tags(blocks)
  }


GRADIENT_NORM = "gradient_norm"
LEARNING_RATE = "learning_rate"
_SUM = tf.distribute.ReduceOp.SUM
# What validation counts.
_COUNTS = ("desc", "attn", "number")


def _compiled(function, **options):
  """Returns a tf.function; there is no Python to convert, which takes long."""
  return tf.function(function, autograph=False, **options)


class Stepper:
  """The model, its optimiser, and the functions that run them.

  Attributes:
    model: delf_model.Delf with classifiers.
    optimizer: momentum.Momentum.
    strategy: tf.distribute.Strategy.
  """

  def __init__(self, settings, strategy):
    """Makes all variables.

    Args:
      settings: settings.Settings.
      strategy: Of `devices.strategy`.

    Raises:
      InputError: If the batch cannot be shared, or the devices cannot do what
        is asked.
    """
    if (
      settings.execution.xla
      and settings.network.normalization == "synchronized"
      and strategy.num_replicas_in_sync > 1
    ):
      raise errors.InputError(
        'with XLA on several devices, normalization "batch" or "frozen": '
        "statistics of all devices cannot be within a compiled step",
        '"synchronized"',
      )
    self._settings = settings
    self.strategy = strategy
    self._replicas = strategy.num_replicas_in_sync
    batch_size = settings.data.batch_size
    if batch_size % self._replicas:
      raise errors.InputError(
        f"a batch size that {self._replicas} devices share evenly", batch_size
      )
    with strategy.scope():
      self.model = make(settings.network, settings.data.num_classes)
      # In the order in which the original numbers its slots.
      self._trained = [v.value for v in self.model.trainable_variables]
      self.optimizer = Momentum(self._trained, settings.learning.momentum)
    self._by_batch = settings.network.normalization != "frozen"
    self._averages = self._averages_apart()
    self._compile()

  def _averages_apart(self):
    """Returns the moving averages that each device updates by itself."""
    if self._replicas == 1 or self._settings.network.normalization != "batch":
      return []
    return [
      variable.value
      for layer in layer_paths.layers_by_path(self.model).values()
      if isinstance(layer, keras.layers.BatchNormalization)
      for variable in (layer.moving_mean, layer.moving_variance)
    ]

  def _compile(self):
    execution = self._settings.execution
    self._gradients = self._find_gradients
    self._train = self._train_all
    self._validate = self._validate_all
    if execution.eager:
      return
    if execution.xla:
      self._gradients = _compiled(self._find_gradients, jit_compile=True)
    self._train = _compiled(self._train_all)
    self._validate = _compiled(self._validate_all, reduce_retracing=True)

  @property
  def step(self):
    """Steps made."""
    return int(self.optimizer.iterations.numpy())

  def is_finite(self):
    """Returns whether all variables of the model are numbers."""
    return all(
      bool(tf.reduce_all(tf.math.is_finite(variable.value)))
      for variable in self.model.variables
    )

  def distribute(self, dataset):
    """Returns an iterable over the shares of a dataset's batches."""
    if self._replicas == 1:
      return dataset
    return self.strategy.experimental_distribute_dataset(dataset)

  def train(self, images, labels, look):
    """Makes one step.

    Args:
      images: float32 [B, H, W, 3], or the shares of the devices.
      labels: int64 [B], or the shares of the devices.
      look: Whether sparsities are computed; else they are 0.

    Returns:
      dict of tag to float; and a function without arguments that returns a dict
      with `images`, `labels`, `guesses`, `attention` and `sparsity` (see
      observers.Batch).
    """
    metrics, sparsity, found = self._train(images, labels, tf.constant(look))
    metrics = {name: float(value) for name, value in metrics.items()}

    def outputs():
      seen = found | {"images": images, "labels": labels}
      whole = {name: self._gather(value) for name, value in seen.items()}
      return {
        "images": whole["images"],
        "labels": whole["labels"],
        "attention": whole["attention"],
        "guesses": {name: whole[name] for name in ACCURACY},
        "sparsity": {name: float(value) for name, value in sparsity.items()},
      }

    return metrics, outputs

  def validate(self, images, labels):
    """Counts right guesses.

    Args:
      images: As for `train`.
      labels: As for `train`.

    Returns:
      dict of "desc" and "attn" to number of right guesses, and "number".
    """
    counts = self._validate(images, labels)
    return {name: int(value) for name, value in counts.items()}

  def _gather(self, value):
    parts = self.strategy.experimental_local_results(value)
    return tf.concat(parts, axis=0).numpy()

  def _reduce(self, values):
    return {
      name: self.strategy.reduce(_SUM, value, axis=None)
      for name, value in values.items()
    }

  def _train_all(self, images, labels, look):
    metrics, sparsity, found = self.strategy.run(
      self._train_one, args=(images, labels, look)
    )
    return self._reduce(metrics), self._reduce(sparsity), found

  def _train_one(self, images, labels, look):
    """Makes the step of one device."""
    gradients, metrics, sparsity, found = self._gradients(images, labels, look)
    averages = [tf.identity(average) for average in self._averages]
    context = tf.distribute.get_replica_context()
    summed = context.all_reduce(_SUM, [*gradients, *averages])
    gradients = summed[: len(gradients)]
    # What is stored, and validated with, is of all photos of the batch.
    for average, total in zip(
      self._averages, summed[len(gradients) :], strict=True
    ):
      average.assign(total / self._replicas)
    learning = self._settings.learning
    rate = rate_momentum(self.optimizer.iterations, learning)
    norm = self.optimizer.apply(gradients, rate, learning.clip_norm)
    same = {GRADIENT_NORM: norm, LEARNING_RATE: rate}
    if hasattr(self.model, "scale_factor"):
      same["desc/scale_factor"] = self.model.scale_factor.value
    metrics |= {n: value / self._replicas for n, value in same.items()}
    return metrics, sparsity, found

  def _find_gradients(self, images, labels, look):
    """Returns gradients and metrics of one device's share."""
    settings, replicas = self._settings, self._replicas
    batch_size = settings.data.batch_size
    with tf.GradientTape() as tape:
      outputs = forward(self.model, images, labels, True, self._by_batch)
      parts = losses(self.model, outputs, labels, batch_size, replicas)
      loss = total(parts, settings.learning)
    gradients = tape.gradient(
      loss, self._trained, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    found = guesses(outputs)
    metrics = parts | {TOTAL: loss}
    for name, tag in ACCURACY.items():
      right = tf.cast(found[name] == tf.cast(labels, tf.int64), tf.float32)
      metrics[tag] = tf.reduce_sum(right) / batch_size
    found["attention"] = outputs["attention"]
    sparsity = tf.cond(
      look,
      lambda: sparsity_objectives(outputs["blocks"], replicas),
      lambda: dict.fromkeys(sparsity_tags(outputs["blocks"]), tf.constant(0.0)),
    )
    return gradients, metrics, sparsity, found

  def _validate_all(self, images, labels):
    return self._reduce(
      self.strategy.run(self._validate_one, args=(images, labels))
    )

  def _validate_one(self, images, labels):
    labels = tf.cast(labels, tf.int64)
    # The last batch may leave a device without photos, which no layer takes.
    return tf.cond(
      tf.size(labels) > 0,
      lambda: self._count_right(images, labels),
      lambda: dict.fromkeys(_COUNTS, tf.constant(0, tf.int64)),
    )

  def _count_right(self, images, labels):
    # The same pass as in training: attention reads what the autoencoder gives.
    outputs = forward(self.model, images, labels, False, False)
    counts = {
      name: tf.reduce_sum(tf.cast(guess == labels, tf.int64))
      for name, guess in guesses(outputs).items()
    }
    return counts | {"number": tf.size(labels, tf.int64)}
