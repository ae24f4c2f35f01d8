"""Steps of training on tuples, one image at a time."""

import math

import keras
import numpy as np
import tensorflow as tf

from delf.python.training.losses import ranking_losses

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
