"""The projection of descriptors onto principal components."""

import dataclasses

import numpy as np

from delf.python import datum_io, errors


@dataclasses.dataclass(frozen=True)
class PcaParameters:
  """What a projection needs, cut to the components that are kept.

  Attributes:
    mean: [D] float32.
    matrix: [dim, D] float32, one component a row, the largest first.
    variances: [dim] float32 of the components, or None without whitening.
  """

  mean: np.ndarray
  matrix: np.ndarray
  variances: np.ndarray | None = None

  @property
  def dim(self):
    """Number of components that are kept."""
    return len(self.matrix)

  @property
  def use_whitening(self):
    """Whether projections are divided by their standard deviations."""
    return self.variances is not None


def load_pca(pca_parameters_proto):
  """Reads the files that a configuration names.

  Args:
    pca_parameters_proto: DelfPcaParameters.

  Returns:
    PcaParameters.

  Raises:
    FileNotFoundError: If a file is missing.
    InputError: If a file is not a DatumProto, holds what is not finite, or the
      shapes do not fit each other or `pca_dim`; it names the file.
  """
  proto = pca_parameters_proto
  mean = _read(proto.mean_path, "the mean", [None])
  size = len(mean)
  matrix = _read(
    proto.projection_matrix_path,
    f"a projection matrix for the mean [{size}] of {proto.mean_path}",
    [None, size],
  )
  if not 0 < proto.pca_dim <= len(matrix):
    raise errors.InputError(
      f"pca_dim from 1 to {len(matrix)}, the components in the file",
      f"pca_dim {proto.pca_dim}",
      proto.projection_matrix_path,
    )
  variances = None
  if proto.use_whitening:
    variances = _read(
      proto.pca_variances_path,
      f"variances of the components of {proto.projection_matrix_path}",
      [len(matrix)],
    )[: proto.pca_dim]
    if not (variances > 0).all():
      raise errors.InputError(
        "positive variances", f"{variances.min()}", proto.pca_variances_path
      )
  return PcaParameters(mean, matrix[: proto.pca_dim], variances)


class Moments:
  """Sums of descriptors, from which components are computed at the end.

  Descriptors may come in any number of parts; [D, D] float64 is in memory.
  """

  def __init__(self):
    self.number = 0
    self._first = self._sum = self._products = None

  def add(self, descriptors):
    """Adds descriptors, [N, D] float, finite."""
    if not len(descriptors):
      return
    descriptors = np.asarray(descriptors, dtype=np.float64)
    if self._first is None:
      # Near the mean, so that the difference of large sums keeps its digits.
      self._first = descriptors.mean(axis=0)
      self._sum = np.zeros_like(self._first)
      self._products = np.zeros([len(self._first)] * 2)
    moved = descriptors - self._first
    self.number += len(moved)
    self._sum += moved.sum(axis=0)
    self._products += moved.T @ moved

  def parameters(self):
    """Returns PcaParameters with all D components and their variances.

    The largest value of a component is positive, as its sign is free.

    Raises:
      InputError: If there are no more than D descriptors, which leave some
        direction without variance.
    """
    size = 0 if self._first is None else len(self._first)
    if self.number <= size:
      raise errors.InputError(
        f"more descriptors than their dimension, {size or 'D'}",
        f"{self.number}",
      )
    mean = self._sum / self.number
    covariance = self._products / self.number - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    matrix = directions[:, ::-1].T
    largest = np.abs(matrix).argmax(axis=1)[:, np.newaxis]
    matrix = matrix * np.sign(np.take_along_axis(matrix, largest, axis=1))
    return PcaParameters(
      (self._first + mean).astype(np.float32),
      matrix.astype(np.float32),
      np.maximum(variances[::-1], 0).astype(np.float32),
    )


def project(descriptors, mean, components, variances=None):
  """Projects descriptors; for NumPy arrays and TensorFlow's tensors alike.

  Args:
    descriptors: [N, D] float.
    mean: [D] float.
    components: [D, dim] float, one component a column.
    variances: [dim] float to whiten by, or None.

  Returns:
    [N, dim]: (descriptors - mean) @ components, with whitening over the square
    root of the variances (Jegou & Chum, ECCV 2012).
  """
  projected = (descriptors - mean) @ components
  return projected if variances is None else projected / variances**0.5


def _read(path, what, shape):
  """Reads a `.datum` file; None in `shape` stands for any number."""
  array = datum_io.ReadFromFile(path).astype(np.float32)
  fits = len(shape) == array.ndim and all(
    wanted in (None, size)
    for wanted, size in zip(shape, array.shape, strict=True)
  )
  if not fits:
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    raise errors.InputError(
      f"{what}, shape [{wanted}]", f"shape {list(array.shape)}", path
    )
  if not np.isfinite(array).all():
    raise errors.InputError(f"{what} in finite numbers", "NaN or inf", path)
  return array
