"""Learned whitening of global descriptors, which are columns: [D, N].

Radenovic, Tolias & Chum, "Fine-tuning CNN Image Retrieval with No Human
Annotation", section 3.3, after Mikolajczyk & Matas (ICCV 2007): descriptors are
whitened by how those of one object differ, then turned to the directions in
which all of them differ most.
"""

import numpy as np

from delf.base import arrays, errors, files
from delf.python import datum_io

# Added to lengths before dividing by them, as in the original.
_EPSILON = 1e-6
# First addition to the diagonal of a singular matrix; ten times it comes next.
_FIRST_JITTER = 1e-10
# Largest difference of a matrix from its transpose, over its largest value.
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
    projection: [K, D], the most telling direction first.
    output_dim: Directions to keep, from the first on; None for all.

  Returns:
    [output_dim, N], each column over its length + 1e-6.
  """
  projection = _matrix(projection, "a projection", "[K, D]")
  size = projection.shape[1]
  descriptors = _matrix(descriptors, "descriptors as columns", f"[{size}, N]")
  mean = np.asarray(mean_descriptor_vector)
  if mean.shape not in ((size,), (size, 1)) or len(descriptors) != size:
    raise errors.InputError(
      f"descriptors [{size}, N] and a mean [{size}, 1] for a projection "
      f"{list(projection.shape)}",
      f"{list(descriptors.shape)} and {list(mean.shape)}",
    )
  if output_dim is None:
    output_dim = len(projection)
  if not 0 < output_dim <= len(projection):
    raise errors.InputError(
      f"output_dim from 1 to {len(projection)}", f"{output_dim}"
    )
  whitened = projection[:output_dim] @ (descriptors - mean.reshape([-1, 1]))
  lengths = np.linalg.norm(whitened, axis=0, keepdims=True)
  return whitened / (lengths + _EPSILON)


def learn_whitening(
  descriptors: np.ndarray, qidxs: np.ndarray, pidxs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Learn a whitening from pairs of descriptors of one object each.

  At least D pairs that differ in independent ways determine it; with fewer, the
  covariance of differences is singular and `cholesky` helps out.

  Args:
    descriptors: [D, N], a descriptor a column.
    qidxs: [P] columns of the first of each pair, `pidxs` of the second.

  Returns:
    Mean of the first ones of all pairs [D, 1] and projection [D, D], float64. A
    row of the projection has its largest value positive, as its sign is free.
  """
  descriptors = _matrix(descriptors, "descriptors as columns", "[D, N]")
  descriptors = descriptors.astype(np.float64, copy=False)
  number = descriptors.shape[1]
  first, second = _columns(qidxs, number), _columns(pidxs, number)
  if len(first) != len(second):
    raise errors.InputError(
      "as many first as second indices", f"{len(first)} and {len(second)}"
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
  """Decompose a symmetric [D, D] matrix, a covariance, even a singular one.

  Returns the lower triangular L with L @ L.T = matrix + a * identity. a is 0
  where that works, else the first of 1e-10, 1e-9, ... that does.
  """
  matrix = _matrix(matrix, "a square matrix", "[D, D]")
  if matrix.shape[0] != matrix.shape[1]:
    raise errors.InputError(
      "a square matrix [D, D]", f"shape {list(matrix.shape)}"
    )
  if np.abs(matrix - matrix.T).max() > _SYMMETRY * np.abs(matrix).max():
    raise errors.InputError("a symmetric matrix", "one that is not")
  jitter = 0.0
  while True:
    try:
      return np.linalg.cholesky(matrix + jitter * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
      jitter = 10 * jitter or _FIRST_JITTER


def write_whitening(
  path: files.Path, mean_descriptor_vector: np.ndarray, projection: np.ndarray
) -> None:
  """Write a whitening of `learn_whitening` as a float32 DatumPairProto."""
  mean = np.asarray(mean_descriptor_vector, dtype=np.float32)
  datum_io.WritePairToFile(mean, np.asarray(projection, np.float32), path)


def read_whitening(path: files.Path) -> tuple[np.ndarray, np.ndarray]:
  """Read mean [D, 1] and projection [K, D], float32, of `write_whitening`."""
  mean, projection = datum_io.ReadPairFromFile(path)
  fits = projection.ndim == 2 and mean.shape == (projection.shape[1], 1)
  if not fits or not projection.size:
    raise errors.InputError(
      "a whitening, a mean [D, 1] and a projection [K, D]",
      f"shapes {list(mean.shape)} and {list(projection.shape)}",
      path,
    )
  arrays.check_finite(mean, "mean", path)
  return mean, arrays.check_finite(projection, "projection", path)


def _matrix(array, name, shape):
  """Return a finite matrix with values, or raise InputError."""
  array = np.asarray(array)
  if array.ndim != 2 or not array.size:
    raise errors.InputError(f"{name} {shape}", f"shape {list(array.shape)}")
  if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
    raise errors.InputError(
      f"{name} in finite numbers", "NaN, infinity or another type"
    )
  return array


def _columns(indices, number):
  """Return [P] indices of columns, or raise InputError."""
  indices = np.asarray(indices)
  if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
    raise errors.InputError(
      "indices of at least one pair, [P] integers",
      f"{indices.dtype} of shape {list(indices.shape)}",
    )
  if indices.min() < 0 or indices.max() >= number:
    raise errors.InputError(
      f"indices of columns, from 0 to {number - 1} (descriptors are [D, N])",
      f"{indices.min()} to {indices.max()}",
    )
  return indices
