"""One step of training or validation, on one device or several."""

import tensorflow as tf

from delf.python import errors
from delf.python.training.supervised import momentum, networks, objectives

GRADIENT_NORM = "gradient_norm"
LEARNING_RATE = "learning_rate"
_SUM = tf.distribute.ReduceOp.SUM
# What validation counts.
_COUNTS = ("desc", "attn", "number")


def strategy(execution):
  """Returns how the devices of a run share its work.

  Args:
    execution: settings.Execution.

  Returns:
    tf.distribute.Strategy: MirroredStrategy where there are several devices.

  Raises:
    InputError: If there is no such device.
  """
  names = execution.devices
  known = [device.name for device in tf.config.list_logical_devices()]
  gpus = [name for name in known if ":GPU:" in name]
  if names is None:
    names = gpus
  for name in names:
    if not any(each.endswith(name.upper().removeprefix("/")) for each in known):
      words = ", ".join(each.removeprefix("/device:") for each in known)
      raise errors.InputError(f"devices of {words}", repr(name))
  if len(names) > 1:
    return tf.distribute.MirroredStrategy([_path(name) for name in names])
  if names:
    return tf.distribute.OneDeviceStrategy(_path(names[0]))
  return tf.distribute.get_strategy()


def _path(name):
  return name if name.startswith("/") else f"/{name}"


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
      strategy: Of `strategy`.

    Raises:
      InputError: If the batch cannot be shared, or the devices cannot do what
        is asked.
    """
    self._settings = settings
    self.strategy = strategy
    self._replicas = strategy.num_replicas_in_sync
    batch_size = settings.data.batch_size
    if batch_size % self._replicas:
      raise errors.InputError(
        f"a batch size that {self._replicas} devices share evenly", batch_size
      )
    with strategy.scope():
      self.model = networks.make(settings.network, settings.data.num_classes)
      # In the order in which the original numbers its slots.
      self._trained = [v.value for v in self.model.trainable_variables]
      self.optimizer = momentum.Momentum(
        self._trained, settings.learning.momentum
      )
    self._by_batch = settings.network.normalization != "frozen"
    self._compile()

  def _compile(self):
    execution = self._settings.execution
    self._gradients = self._find_gradients
    self._train = self._train_all
    self._validate = self._validate_all
    if execution.eager:
      return
    if execution.xla and self._replicas == 1:
      self._gradients = _compiled(self._find_gradients, jit_compile=True)
    elif execution.xla:
      # Averages of several devices cannot be updated within a compiled step.
      tf.config.optimizer.set_jit("autoclustering")
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
        "guesses": {name: whole[name] for name in objectives.ACCURACY},
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
    context = tf.distribute.get_replica_context()
    gradients = context.all_reduce(_SUM, gradients)
    learning = self._settings.learning
    rate = momentum.rate(self.optimizer.iterations, learning)
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
      outputs = objectives.forward(
        self.model, images, labels, True, self._by_batch
      )
      parts = objectives.losses(
        self.model, outputs, labels, batch_size, replicas
      )
      loss = objectives.total(parts, settings.learning)
    gradients = tape.gradient(
      loss, self._trained, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    found = objectives.guesses(outputs)
    metrics = parts | {objectives.TOTAL: loss}
    for name, tag in objectives.ACCURACY.items():
      right = tf.cast(found[name] == tf.cast(labels, tf.int64), tf.float32)
      metrics[tag] = tf.reduce_sum(right) / batch_size
    found["attention"] = outputs["attention"]
    sparsity = tf.cond(
      look,
      lambda: objectives.sparsity(outputs["blocks"], replicas),
      lambda: dict.fromkeys(
        objectives.sparsity_tags(outputs["blocks"]), tf.constant(0.0)
      ),
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
    outputs = objectives.forward(self.model, images, labels, False, False)
    counts = {
      name: tf.reduce_sum(tf.cast(guess == labels, tf.int64))
      for name, guess in objectives.guesses(outputs).items()
    }
    return counts | {"number": tf.size(labels, tf.int64)}
