"""Stochastic gradient descent whose state has the original's keys."""

import tensorflow as tf


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


def rate(step, learning):
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
