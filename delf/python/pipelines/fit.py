"""Parameters of a user's own: PCA and whitening from feature files.

Codebooks are `pipelines.cluster`'s.
"""

import dataclasses
import os

import numpy as np

from delf.python import datum_io, errors, files, pca, progress, whiten
from delf.python.pipelines import extract_report, feature_files

# The original's names, and one for what it has none for.
_PCA_FILES = ("mean.datum", "pca_proj_mat.datum", "pca_variances.datum")
_PCA_CONFIG = "pca_parameters.pbtxt"

# Share of the variance that the components which a configuration names keep,
# where none is asked for.
_VARIANCE_KEPT = 0.95


@dataclasses.dataclass(frozen=True)
class PcaReport:
  """What a PCA was made of.

  Attributes:
    folder: Folder of its files.
    config: Text of a DelfPcaParameters that names them.
    dimension: Values of a descriptor.
    descriptors: Number of descriptors.
    kept: [D] float, share of the variance that 1, 2, ... components keep.
    pca_dim: Components that `config` keeps.
    failed: Failure of each feature file that was left out.
  """

  folder: str
  config: str
  dimension: int
  descriptors: int
  kept: np.ndarray
  pca_dim: int
  failed: tuple[extract_report.Failure, ...] = ()


@dataclasses.dataclass(frozen=True)
class WhiteningReport:
  """What a whitening was made of.

  Attributes:
    path: Its file, a DatumPairProto of mean [D, 1] and projection [D, D].
    dimension: Values of a descriptor.
    descriptors: Number of descriptors.
    pairs: Number of pairs.
    failed: Failure of each feature file that was left out.
  """

  path: str
  dimension: int
  descriptors: int
  pairs: int
  failed: tuple[extract_report.Failure, ...] = ()


def fit_pca(paths, folder, dim=None, overwrite=False):
  """Computes the principal components of all descriptors of files.

  Descriptors are L2-normalised first, as they are before a PCA is applied. One
  file is in memory at a time.

  Args:
    paths: Paths of feature files.
    folder: Folder for `mean.datum` [D], `pca_proj_mat.datum` [D, D], a
      component a row, `pca_variances.datum` [D], and `pca_parameters.pbtxt`.
    dim: Components that the configuration keeps; None for those that keep 95 %
      of the variance. The files hold all.
    overwrite: Whether files that are there are replaced.

  Returns:
    PcaReport.

  Raises:
    InputError: If there is a PCA already, there are no more descriptors than
      they have values, or `dim` is over these.
  """
  if not overwrite:
    refuse_pca(folder)
  reader, moments = feature_files.Reader(), pca.Moments()
  for path in progress.track(paths, "reading features"):
    moments.add(_normalize(reader.read(path)))
  _any_left(moments.number, reader.failures)
  found = moments.parameters()
  kept = np.cumsum(found.variances, dtype=np.float64)
  kept /= kept[-1] or 1
  if dim is None:
    dim = 1 + int(np.searchsorted(kept, _VARIANCE_KEPT))
  if not 0 < dim <= found.dim:
    raise errors.InputError(f"1 to {found.dim} components", f"{dim}")
  arrays = (found.mean, found.matrix, found.variances)
  for name, array in zip(_PCA_FILES, arrays, strict=True):
    datum_io.WriteToFile(array, os.path.join(folder, name))
  config = _pca_config(folder, dim)
  files.write_bytes(os.path.join(folder, _PCA_CONFIG), config.encode())
  return PcaReport(
    folder=os.fspath(folder),
    config=config,
    dimension=found.dim,
    descriptors=moments.number,
    kept=kept,
    pca_dim=dim,
    failed=tuple(reader.failures),
  )


def fit_whitening(paths, pairs, output, overwrite=False):
  """Learns a whitening from pairs of images of one object each.

  Args:
    paths: Paths of `.delg_global` files.
    pairs: [P, 2] int, positions in `paths`. A pair of a file that is bad is
      left out.
    output: Path of the file to be.
    overwrite: Whether a file that is there is replaced.

  Returns:
    WhiteningReport.

  Raises:
    InputError: If there is such a file, or fewer pairs than D are left, which
      leave some direction without a scale.
  """
  if not overwrite:
    refuse(output)
  reader, found = feature_files.Reader(), []
  place = np.full([len(paths)], -1)
  for i, path in enumerate(progress.track(paths, "reading features")):
    descriptor = reader.read(path)
    if len(descriptor):
      place[i] = len(found)
      found.append(descriptor[0])
  _any_left(len(found), reader.failures)
  pairs = place[pairs]
  pairs = pairs[(pairs >= 0).all(axis=1)]
  if len(pairs) < reader.dimension:
    raise errors.InputError(
      f"at least {reader.dimension} pairs for descriptors of as many values",
      f"{len(pairs)}",
    )
  columns = np.stack(found, axis=1)
  learned = whiten.learn_whitening(columns, pairs[:, 0], pairs[:, 1])
  whiten.write_whitening(output, *learned)
  return WhiteningReport(
    path=os.fspath(output),
    dimension=reader.dimension,
    descriptors=len(found),
    pairs=len(pairs),
    failed=tuple(reader.failures),
  )


def refuse_pca(folder):
  """Raises an InputError if there is a file of a PCA in a folder."""
  for name in _PCA_FILES:
    refuse(os.path.join(folder, name))


def refuse(path):
  """Raises an InputError if there is such a file."""
  if os.path.exists(path):
    raise errors.InputError(
      "a new name (or to overwrite it)", "one that is there", path
    )


def _any_left(number, failures):
  """Raises an InputError, with a reason, if there is not a descriptor."""
  if not number:
    reason = f"; first bad file: {failures[0]}" if failures else ""
    raise errors.InputError("files with descriptors", f"none{reason}")


def _normalize(descriptors):
  lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
  return descriptors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _pca_config(folder, dim):
  """Returns a DelfPcaParameters as text, for a configuration."""
  from google.protobuf import text_format

  from delf.protos import delf_config_pb2

  mean, matrix, variances = (
    os.path.abspath(os.path.join(folder, name)) for name in _PCA_FILES
  )
  message = delf_config_pb2.DelfPcaParameters(
    mean_path=mean,
    projection_matrix_path=matrix,
    pca_dim=dim,
    use_whitening=False,
    pca_variances_path=variances,
  )
  return text_format.MessageToString(message)
