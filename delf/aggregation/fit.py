"""Learning of PCA and whitening from feature files or photos."""

import contextlib
import csv
import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from delf.aggregation import clustering
from delf.base import errors, files, progress
from delf.extraction import engine, extract
from delf.inference import extractor, zoo
from delf.protos import delf_config_pb2
from delf.python import datum_io, whiten

# File names of the original, and one of our own for the configuration.
_PCA_FILES = ("mean.datum", "pca_proj_mat.datum", "pca_variances.datum")
_PCA_CONFIG = "pca_parameters.pbtxt"
_VARIANCE_KEPT = 0.95  # Default share of the variance that components keep.
_MOST_IN_GROUP = 500  # Pairs of one group; more add little.


@dataclasses.dataclass(frozen=True)
class PcaReport:
  """Result of a PCA of descriptors of one dimension."""

  config: str  # Text of a DelfPcaParameters with the paths of the files.
  dimension: int
  descriptors: int
  kept: np.ndarray  # [D], share of the variance that 1, 2, ... components keep.
  pca_dim: int  # Number of components in `config`.
  failed: tuple[engine.Failure, ...] = ()


@dataclasses.dataclass(frozen=True)
class WhiteningReport:
  """Result of a whitening, with the numbers that it was learned from."""

  dimension: int
  descriptors: int
  pairs: int
  failed: tuple[engine.Failure, ...] = ()


class Moments:
  """Sums of descriptors, from which principal components are computed.

  Descriptors may be added in parts; the memory is [D, D] float64.
  """

  def __init__(self) -> None:
    self.number = 0
    self._first = self._sum = self._products = np.zeros([0])

  def add(self, descriptors: np.ndarray) -> None:
    """Add descriptors, [N, D] float, finite."""
    if not len(descriptors):
      return
    descriptors = np.asarray(descriptors, dtype=np.float64)
    if not self.number:
      # An origin near the mean keeps the precision of differences of sums.
      self._first = descriptors.mean(axis=0)
      self._sum = np.zeros_like(self._first)
      self._products = np.zeros([len(self._first)] * 2)
    moved = descriptors - self._first
    self.number += len(moved)
    self._sum += moved.sum(axis=0)
    self._products += moved.T @ moved

  def parameters(self) -> extractor.PcaParameters:
    """Return all D components and their variances.

    The sign of a component is free: its largest value is made positive.
    InputError unless there are more than D descriptors, as each direction needs
    a variance.
    """
    size = len(self._first)
    if self.number <= size:
      message = f"PCA needs more than {size} descriptors, not {self.number}"
      raise errors.InputError(message)
    mean = self._sum / self.number
    covariance = self._products / self.number - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    matrix = directions[:, ::-1].T
    largest = np.abs(matrix).argmax(axis=1)[:, np.newaxis]
    matrix = matrix * np.sign(np.take_along_axis(matrix, largest, axis=1))
    return extractor.PcaParameters(
      (self._first + mean).astype(np.float32),
      matrix.astype(np.float32),
      np.maximum(variances[::-1], 0).astype(np.float32),
    )


def fit_pca(
  paths: Iterable[str],
  folder: files.Path,
  dim: int | None = None,
  overwrite: bool = False,
) -> PcaReport:
  """Compute the principal components of all descriptors in feature files.

  Descriptors are L2-normalised first, as in applying a PCA; only one file is in
  memory at a time. The folder gets `mean.datum` [D], `pca_proj_mat.datum`
  [D, D] with a component per row, `pca_variances.datum` [D], and
  `pca_parameters.pbtxt`, which keeps `dim` components, by default as many as
  95 % of the variance need.
  """
  if not overwrite:
    refuse_pca(folder)
  reader, moments = clustering.Reader(), Moments()
  for path in progress.track(paths, "reading features"):
    descriptors = reader.read(path)
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    tiny = np.finfo(np.float32).tiny
    moments.add(descriptors / np.maximum(lengths, tiny))
  _check_any(moments.number, reader.failures)
  pca = moments.parameters()
  variances = np.asarray(pca.variances)
  kept = np.cumsum(variances, dtype=np.float64)
  kept /= kept[-1] or 1
  if dim is None:
    dim = 1 + int(np.searchsorted(kept, _VARIANCE_KEPT))
  if not 0 < dim <= pca.dim:
    raise errors.InputError(f"dim must be 1 to {pca.dim}, not {dim}")
  contents = (pca.mean, pca.matrix, variances)
  written = [os.path.abspath(os.path.join(folder, n)) for n in _PCA_FILES]
  for path, array in zip(written, contents, strict=True):
    datum_io.WriteToFile(array, path)
  message = delf_config_pb2.DelfPcaParameters(pca_dim=dim, use_whitening=False)
  message.mean_path, message.projection_matrix_path, variances_path = written
  message.pca_variances_path = variances_path
  config = text_format.MessageToString(message)
  files.write_bytes(os.path.join(folder, _PCA_CONFIG), config.encode())
  failed = tuple(reader.failures)
  return PcaReport(config, pca.dim, moments.number, kept, dim, failed)


def fit_whitening(
  paths: Sequence[str],
  pairs: np.ndarray,
  output: files.Path,
  overwrite: bool = False,
) -> WhiteningReport:
  """Learn a whitening from pairs of `.delg_global` files of one object.

  Pairs [P, 2] are indices of paths; pairs with bad files are skipped. The
  output is a DatumPairProto of mean [D, 1] and projection [D, D].
  """
  if not overwrite:
    refuse(output)
  reader = clustering.Reader()
  rows: list[np.ndarray] = []
  row_of = np.full([len(paths)], -1)
  for i, path in enumerate(progress.track(paths, "reading features")):
    descriptor = reader.read(path)
    if len(descriptor):
      row_of[i] = len(rows)
      rows.append(descriptor[0])
  _check_any(len(rows), reader.failures)
  pairs = row_of[pairs]
  pairs = pairs[(pairs >= 0).all(axis=1)]
  dimension = len(rows[0])
  if len(pairs) < dimension:  # Some direction would have no scale.
    needed = f"at least {dimension} pairs, as many as values of a descriptor"
    raise errors.InputError(f"whitening needs {needed}, not {len(pairs)}")
  columns = np.stack(rows, axis=1)
  learned = whiten.learn_whitening(columns, pairs[:, 0], pairs[:, 1])
  whiten.write_whitening(output, *learned)
  failed = tuple(reader.failures)
  return WhiteningReport(dimension, len(rows), len(pairs), failed)


def refuse_pca(folder: files.Path) -> None:
  """Raise InputError if a folder has a file of a PCA."""
  for name in _PCA_FILES:
    refuse(os.path.join(folder, name))


def refuse(path: files.Path) -> None:
  """Raise InputError if a file exists."""
  if os.path.exists(path):
    raise errors.InputError("file exists: overwrite or rename it", path=path)


def _check_any(number, failures):
  if not number:
    reason = f"; first bad file: {failures[0]}" if failures else ""
    raise errors.InputError(f"no file has descriptors{reason}")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Feature files and their names: relative paths without extension."""

  paths: list[str]
  names: list[str]
  failed: tuple[engine.Failure, ...] = ()


def find(
  sources: Sequence[str], kind: str, raw: bool = False, **extraction: Any
) -> Sources:
  """Find feature files of a kind in folders, or extract photos.

  Folders, patterns and lists of photos are extracted into `folder`, skipping
  finished photos; `model`, `config`, `max_size` and `device` are as in `delf
  extract`. `raw` turns off the PCA of the configuration, for fitting a PCA.
  """
  paths = [_features(source, kind) for source in sources]
  if not any(paths):
    return _extract(sources, kind, raw, **extraction)
  if not all(paths):
    message = "give folders of features or photos, not both"
    raise errors.InputError(message, path=sources[0])
  names = [
    os.path.splitext(os.path.relpath(path, source))[0]
    for source, own in zip(sources, paths, strict=True)
    for path in own
  ]
  return Sources(sum(paths, []), names)


def _features(source, kind):
  """List the feature files of a folder; [] if it is not a folder of them."""
  if not os.path.isdir(source):
    return []
  paths = {}
  for each in clustering.EXTENSIONS:
    with contextlib.suppress(errors.InputError):
      paths[each] = clustering.find(source, each)
  if paths and kind not in paths:
    needed = f"{kind} features ({', '.join(clustering.EXTENSIONS[kind])})"
    message = f"the folder has no {needed}, only {', '.join(paths)} ones"
    raise errors.InputError(message, path=source)
  return paths.get(kind, [])


def _extract(sources, kind, raw, folder, model, config, max_size, device):
  images, names = engine.find(sources)
  config = zoo.choose(model, config)
  config.use_local_features = kind == clustering.LOCAL
  config.use_global_features = kind == clustering.GLOBAL
  if raw:
    config.delf_local_config.use_pca = False
    config.delf_global_config.use_pca = False
  if max_size:
    config.max_image_size = max_size
  report = extract.extract_to_files(
    images, config, folder, names=names, device=device
  )
  if report.interrupted:
    raise KeyboardInterrupt
  failed = {failure.path for failure in report.failed}
  done = [n for i, n in zip(images, names, strict=True) if i not in failed]
  if not done:
    first = f"first of {len(failed)} that failed: {report.failed[0]}"
    raise errors.InputError(f"no photo has features; {first}")
  extension = files.DELF if config.use_local_features else files.DELG_GLOBAL
  paths = [os.path.join(folder, name + extension) for name in done]
  return Sources(paths, done, report.failed)


def from_folders(names: Sequence[str], seed: int = 0) -> np.ndarray:
  """Pair images in the same folder, such as `colosseum/1` and `colosseum/2`.

  Returns [P, 2] indices of names; `seed` selects the pairs of a large folder.
  """
  problem = "no folder has two or more images (or give --pairs or --groups)"
  return _pairs_within(map(os.path.dirname, names), seed, problem)


def from_groups(
  path: files.Path, names: Sequence[str], seed: int = 0
) -> np.ndarray:
  """Pair images of the same group, like `from_folders`.

  The CSV file has names, whose extensions are ignored, and their groups.
  """
  index = {name: i for i, name in enumerate(names)}
  groups = [""] * len(names)
  for name, group in _rows(path):
    if (i := _find(name, index)) is not None:
      groups[i] = group
  problem = f"no group has two or more of the images, such as {names[0]}"
  return _pairs_within(groups, seed, problem, path)


def from_pairs(path: files.Path, names: Sequence[str]) -> np.ndarray:
  """Read pairs of names from a CSV file; return [P, 2] indices of names.

  Extensions in the file are ignored, and pairs with unknown names are skipped.
  """
  index = {name: i for i, name in enumerate(names)}
  pairs = [[_find(name, index) for name in row] for row in _rows(path)]
  pairs = [pair for pair in pairs if None not in pair]
  if not pairs:
    message = f"no row has a pair of the images, such as {names[0]}"
    raise errors.InputError(message, path=path)
  return np.array(pairs)


def _pairs_within(groups, seed, problem, path=None):
  """Return pairs of indices [P, 2] with the same group, except ""."""
  labels, inverse = np.unique(list(groups), return_inverse=True)
  order = np.argsort(inverse, kind="stable")
  members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
  generator = np.random.default_rng(seed)
  pairs = []
  for label, own in zip(labels, members, strict=True):
    if label and len(own) > 1:
      one, two = np.triu_indices(len(own), 1)
      if len(one) > _MOST_IN_GROUP:
        some = generator.choice(len(one), _MOST_IN_GROUP, replace=False)
        one, two = one[some], two[some]
      pairs.append(np.stack([own[one], own[two]], axis=1))
  if not pairs:
    raise errors.InputError(problem, path=path)
  return np.concatenate(pairs)


def _rows(path):
  """Return the first two values of each row of a CSV file."""
  try:
    rows = list(csv.reader(files.read_lines(path)))
  except csv.Error as error:
    raise errors.InputError(f"not a CSV file: {error}", path=path) from None
  for number, row in enumerate(rows, 1):
    if len(row) < 2:
      message = f"row {number} needs two values and a comma: {','.join(row)!r}"
      raise errors.InputError(message, path=path)
  return [[value.strip() for value in row[:2]] for row in rows]


def _find(name, index):
  """Return the index of a name, which may have an extension, or None."""
  return index.get(name, index.get(os.path.splitext(name)[0]))
