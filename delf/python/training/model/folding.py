"""Batch normalisation as part of the convolution before it, for inference."""

import contextlib

import keras
import numpy as np


@contextlib.contextmanager
def folded(model):
  """Folds batch normalisations into convolutions while the block runs.

  A normalisation with fixed statistics is a scale and a shift by channel. The
  scale goes into the kernel and, with the shift, into the bias, so that the
  feature map is not gone over twice. What is traced and saved meanwhile gives
  the same to rounding, without batch statistics; afterwards all weights are as
  they were. Nobody else may use the model meanwhile: training beside it would
  be lost. What is folded already stays so.

  Args:
    model: Model whose layers name their pairs in `foldable`, a tuple of
      attribute names (convolution, normalization). Others stay as they are.
  """
  kept = []
  try:
    for convolution, norm in _pairs(model):
      kept.append((convolution, convolution.get_weights(), norm))
      _fold(convolution, norm)
    yield
  finally:
    for convolution, weights, norm in kept:
      convolution.set_weights(weights)
      norm.folded, norm.folded_shift = False, None


def _pairs(model):
  """Yields each convolution and its normalisation that is not folded yet."""
  if not isinstance(model, keras.layers.Layer):
    return
  for layer in model._flatten_layers():
    for names in getattr(layer, "foldable", ()):
      convolution, norm = (getattr(layer, name) for name in names)
      if convolution is not None and norm is not None and not norm.folded:
        yield convolution, norm


def _fold(convolution, norm):
  gamma, beta, mean, variance = (np.asarray(w) for w in norm.get_weights())
  scale = gamma / np.sqrt(variance + norm.epsilon)
  shift = beta - mean * scale
  # Kernels have the output channels last, whatever the layout of the images.
  kernel, *bias = convolution.get_weights()
  if bias:
    convolution.set_weights([kernel * scale, bias[0] * scale + shift])
  else:
    convolution.set_weights([kernel * scale])
    norm.folded_shift = shift
  norm.folded = True
