"""One step of training or validation, on one device or several."""

import keras
import tensorflow as tf

from delf.python import errors
from delf.python.training.model import layer_tree
from delf.python.training.supervised import momentum, networks, objectives

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
      self.model = networks.make(settings.network, settings.data.num_classes)
      # In the order in which the original numbers its slots.
      self._trained = [v.value for v in self.model.trainable_variables]
      self.optimizer = momentum.Momentum(
        self._trained, settings.learning.momentum
      )
    self._by_batch = settings.network.normalization != "frozen"
    self._averages = self._averages_apart()
    self._compile()

  def _averages_apart(self):
    """Returns the moving averages that each device updates by itself."""
    if self._replicas == 1 or self._settings.network.normalization != "batch":
      return []
    return [
      variable.value
      for layer in layer_tree.layers_by_path(self.model).values()
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
