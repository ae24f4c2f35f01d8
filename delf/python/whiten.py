"""Learned whitening of global descriptors, which are columns: [D, N].

Radenovic, Tolias & Chum, "Fine-tuning CNN Image Retrieval with No Human
Annotation", section 3.3, after Mikolajczyk & Matas (ICCV 2007): descriptors are
whitened by the covariance of differences within objects, then rotated to the
principal components of all descriptors.
"""

import numpy as np

from delf.base import arrays, errors, files
from delf.python import datum_io

# Added to norms before dividing by them, as in the original.
_EPSILON = 1e-6
# First jitter on the diagonal of a singular matrix; ten times as much is next.
_FIRST_JITTER = 1e-10
# Largest asymmetry accepted, relative to the largest value of a matrix.
_SYMMETRY = 1e-5


def apply_whitening(
  descriptors: np.ndarray,
  mean_descriptor_vector: np.ndarray,
  projection: np.ndarray,
  output_dim: int | None = None,
) -> np.ndarray:
  """Project descriptors [D, N] and L2-normalise them.

  Args:
    mean_descriptor_vector: [D, 1], or [D].
    projection: [K, D], the direction of the largest variance first.
    output_dim: Number of first directions to keep; None for all.

  Returns:
    [output_dim, N], each column divided by its norm + 1e-6.
  """
  projection = _matrix(projection, "the projection", "[K, D]")
  size = projection.shape[1]
  descriptors = _matrix(descriptors, "the descriptors", f"[{size}, N]")
  mean = np.asarray(mean_descriptor_vector)
  if mean.shape not in ((size,), (size, 1)) or len(descriptors) != size:
    raise errors.InputError(
      f"a projection {list(projection.shape)} needs descriptors [{size}, N] "
      f"and a mean [{size}, 1], not {list(descriptors.shape)} and "
      f"{list(mean.shape)}"
    )
  if output_dim is None:
    output_dim = len(projection)
  if not 0 < output_dim <= len(projection):
    raise errors.InputError(
      f"output_dim must be from 1 to {len(projection)}, not {output_dim}"
    )
  whitened = projection[:output_dim] @ (descriptors - mean.reshape([-1, 1]))
  lengths = np.linalg.norm(whitened, axis=0, keepdims=True)
  return whitened / (lengths + _EPSILON)


def learn_whitening(
  descriptors: np.ndarray, qidxs: np.ndarray, pidxs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Learn a whitening from pairs of descriptors, each pair of one object.

  It takes at least D pairs with linearly independent differences; with fewer,
  the covariance of differences is singular and `cholesky` regularises it.

  Args:
    descriptors: [D, N], one descriptor a column.
    qidxs: [P] columns of the first descriptors of the pairs.
    pidxs: [P] columns of the second ones.

  Returns:
    Mean of the first descriptors [D, 1] and projection [D, D], float64. The
    sign of a row is chosen so that its largest absolute value is positive.
  """
  descriptors = _matrix(descriptors, "the descriptors", "[D, N]")
  descriptors = descriptors.astype(np.float64, copy=False)
  number = descriptors.shape[1]
  first, second = _columns(qidxs, number), _columns(pidxs, number)
  if len(first) != len(second):
    raise errors.InputError(
      f"qidxs has {len(first)} indices, but pidxs has {len(second)}"
    )
  mean = descriptors[:, first].mean(axis=1, keepdims=True)
  differences = descriptors[:, first] - descriptors[:, second]
  within = differences @ differences.T / len(first)
  projection = np.linalg.inv(cholesky(within))
  projected = projection @ (descriptors - mean)
  # Ascending eigenvalues; the largest come first in the projection.
  _, directions = np.linalg.eigh(projected @ projected.T)
  projection = directions[:, ::-1].T @ projection
  largest = np.abs(projection).argmax(axis=1)[:, np.newaxis]
  return mean, projection * np.sign(
    np.take_along_axis(projection, largest, axis=1)
  )


def cholesky(matrix: np.ndarray) -> np.ndarray:
  """Return the Cholesky factor of a covariance [D, D], even a singular one.

  It is the lower triangular L with L @ L.T = matrix + a * identity, where a is
  the first of 0, 1e-10, 1e-9, ... for which the decomposition succeeds.
  """
  matrix = _matrix(matrix, "the matrix", "[D, D]")
  if matrix.shape[0] != matrix.shape[1]:
    raise errors.InputError(f"a matrix {list(matrix.shape)} is not square")
  if np.abs(matrix - matrix.T).max() > _SYMMETRY * np.abs(matrix).max():
    raise errors.InputError("the matrix is not symmetric")
  jitter = 0.0
  while True:
    try:
      return np.linalg.cholesky(matrix + jitter * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
      jitter = 10 * jitter or _FIRST_JITTER


def write_whitening(
  path: files.Path, mean_descriptor_vector: np.ndarray, projection: np.ndarray
) -> None:
  """Write the result of `learn_whitening` as a float32 DatumPairProto."""
  mean = np.asarray(mean_descriptor_vector, dtype=np.float32)
  datum_io.WritePairToFile(mean, np.asarray(projection, np.float32), path)


def read_whitening(path: files.Path) -> tuple[np.ndarray, np.ndarray]:
  """Read the mean [D, 1] and projection [K, D], float32, of a whitening."""
  mean, projection = datum_io.ReadPairFromFile(path)
  fits = projection.ndim == 2 and mean.shape == (projection.shape[1], 1)
  if not fits or not projection.size:
    raise errors.InputError(
      "a whitening has a mean [D, 1] and a projection [K, D], not arrays "
      f"{list(mean.shape)} and {list(projection.shape)}",
      path=path,
    )
  arrays.check_finite(mean, "mean", path)
  return mean, arrays.check_finite(projection, "projection", path)


def _matrix(array, name, shape):
  """Return a finite matrix that is not empty, or raise InputError."""
  array = np.asarray(array)
  if array.ndim != 2 or not array.size:
    shapes = f"{shape}, not {list(array.shape)}"
    raise errors.InputError(f"{name} must have shape {shapes}")
  if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
    raise errors.InputError(f"{name} must have finite numbers")
  return array


def _columns(indices, number):
  """Return [P] column indices, or raise InputError."""
  indices = np.asarray(indices)
  if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
    raise errors.InputError(
      "indices must be integers [P] of at least one pair, not "
      f"{indices.dtype} of shape {list(indices.shape)}"
    )
  if indices.min() < 0 or indices.max() >= number:
    raise errors.InputError(
      f"column indices must be from 0 to {number - 1}, not {indices.min()} to "
      f"{indices.max()} (descriptors are [D, N])"
    )
  return indices
