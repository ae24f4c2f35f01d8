"""PCA and whitening of a user's own, from feature files or photos."""

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

# The original's names, and one for what it has none for.
_PCA_FILES = ("mean.datum", "pca_proj_mat.datum", "pca_variances.datum")
_PCA_CONFIG = "pca_parameters.pbtxt"
# Share of the variance that the components in a configuration keep by default.
_VARIANCE_KEPT = 0.95
# Most pairs of one group: 500 of one thing say little that 5000 do not.
_MOST_IN_GROUP = 500


@dataclasses.dataclass(frozen=True)
class PcaReport:
  """Result of a PCA of descriptors of one dimension."""

  config: str  # Text of a DelfPcaParameters that names its files.
  dimension: int
  descriptors: int
  kept: np.ndarray  # [D], share of the variance that 1, 2, ... components keep.
  pca_dim: int  # Components that `config` keeps.
  failed: tuple[engine.Failure, ...] = ()


@dataclasses.dataclass(frozen=True)
class WhiteningReport:
  """Result of a whitening: numbers that it was learned from."""

  dimension: int
  descriptors: int
  pairs: int
  failed: tuple[engine.Failure, ...] = ()


class Moments:
  """Sums of descriptors, from which principal components are computed.

  Descriptors may come in any number of parts; [D, D] float64 is in memory.
  """

  def __init__(self):
    self.number = 0
    self._first = self._sum = self._products = None

  def add(self, descriptors: np.ndarray) -> None:
    """Add descriptors, [N, D] float, finite."""
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

  def parameters(self) -> extractor.PcaParameters:
    """Return all D components and their variances.

    The largest value of a component is positive: its sign is free. InputError
    unless there are more than D descriptors: each direction needs a variance.
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
  """Compute the principal components of all descriptors of feature files.

  Descriptors are L2-normalised first, as they are before a PCA is applied. One
  file is in memory at a time. Into the folder go `mean.datum` [D],
  `pca_proj_mat.datum` [D, D], a component a row, `pca_variances.datum` [D], and
  `pca_parameters.pbtxt`, which keeps `dim` components, or for None those of
  95 % of the variance.
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
  kept = np.cumsum(pca.variances, dtype=np.float64)
  kept /= kept[-1] or 1
  if dim is None:
    dim = 1 + int(np.searchsorted(kept, _VARIANCE_KEPT))
  if not 0 < dim <= pca.dim:
    raise errors.InputError(f"1 to {pca.dim} components", f"{dim}")
  contents = (pca.mean, pca.matrix, pca.variances)
  written = [os.path.abspath(os.path.join(folder, n)) for n in _PCA_FILES]
  for path, array in zip(written, contents, strict=True):
    datum_io.WriteToFile(array, path)
  message = delf_config_pb2.DelfPcaParameters(
    mean_path=written[0],
    projection_matrix_path=written[1],
    pca_dim=dim,
    use_whitening=False,
    pca_variances_path=written[2],
  )
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
  """Learn a whitening from pairs [P, 2] of `.delg_global` files of one object.

  Pairs are indices of paths; those of bad files are skipped. The output is a
  DatumPairProto of mean [D, 1] and projection [D, D].
  """
  if not overwrite:
    refuse(output)
  reader, rows = clustering.Reader(), []
  row_of = np.full([len(paths)], -1)
  for i, path in enumerate(progress.track(paths, "reading features")):
    descriptor = reader.read(path)
    if len(descriptor):
      row_of[i] = len(rows)
      rows.append(descriptor[0])
  _check_any(len(rows), reader.failures)
  pairs = row_of[pairs]
  pairs = pairs[(pairs >= 0).all(axis=1)]
  # Fewer leave some direction without a scale.
  if len(pairs) < reader.dimension:
    raise errors.InputError(
      f"at least {reader.dimension} pairs for descriptors of as many values",
      f"{len(pairs)}",
    )
  columns = np.stack(rows, axis=1)
  learned = whiten.learn_whitening(columns, pairs[:, 0], pairs[:, 1])
  whiten.write_whitening(output, *learned)
  failed = tuple(reader.failures)
  return WhiteningReport(reader.dimension, len(rows), len(pairs), failed)


def refuse_pca(folder: files.Path) -> None:
  """Raise InputError if there is a file of a PCA in a folder."""
  for name in _PCA_FILES:
    refuse(os.path.join(folder, name))


def refuse(path: files.Path) -> None:
  """Raise InputError if a file exists."""
  if os.path.exists(path):
    raise errors.InputError(
      "a new name (or to overwrite it)", "one that is there", path
    )


def _check_any(number, failures):
  if not number:
    reason = f"; first bad file: {failures[0]}" if failures else ""
    raise errors.InputError("files with descriptors", f"none{reason}")


@dataclasses.dataclass(frozen=True)
class Sources:
  """Feature files, with names relative to their folders, without extension."""

  paths: list[str]
  names: list[str]
  failed: tuple[engine.Failure, ...] = ()


def find(
  sources: Sequence[str],
  kind: str,
  **extraction: Any,
) -> Sources:
  """Find feature files of a kind in folders, or extract photos.

  Folders, patterns and lists of photos are extracted first, unless that is
  done: into `folder`, and perhaps with `model`, `config`, `max_size` and
  `device`, as `delf extract` has them; with `raw` without the PCA of the
  configuration, as a PCA is to be fitted.
  """
  paths = [_features(source, kind) for source in sources]
  if not any(paths):
    return _extract(sources, kind, **extraction)
  if not all(paths):
    raise errors.InputError(
      "folders of features alone, or photos alone", "both", sources[0]
    )
  names = [
    os.path.splitext(os.path.relpath(path, source))[0]
    for source, own in zip(sources, paths, strict=True)
    for path in own
  ]
  return Sources(sum(paths, []), names)


def _features(source, kind):
  """Return the feature files of a folder, [] if it is something else."""
  if not os.path.isdir(source):
    return []
  paths = {}
  for each in clustering.EXTENSIONS:
    try:
      paths[each] = clustering.find(source, each)
    except errors.InputError:
      continue
  if paths and kind not in paths:
    raise errors.InputError(
      f"{kind} features ({', '.join(clustering.EXTENSIONS[kind])})",
      f"{', '.join(paths)} ones alone",
      source,
    )
  return paths.get(kind, [])


def _extract(
  sources,
  kind,
  folder,
  model=None,
  config=None,
  max_size=None,
  device=None,
  raw=False,
):
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
    raise errors.InputError(
      "photos with features",
      f"none; first of {len(failed)} that failed: {report.failed[0]}",
    )
  extension = files.DELF if config.use_local_features else files.DELG_GLOBAL
  paths = [os.path.join(folder, name + extension) for name in done]
  return Sources(paths, done, report.failed)


def from_folders(names: Sequence[str], seed: int = 0) -> np.ndarray:
  """Pair images of one folder, such as `colosseum/1`: [P, 2] indices of names.

  `seed` decides which pairs of a large group are in.
  """
  pairs = _pairs_within([os.path.dirname(name) for name in names], seed)
  if not len(pairs):
    raise errors.InputError(
      "folders with two or more images of one object each (or --pairs, or "
      "--groups)",
      "none",
    )
  return pairs


def from_groups(
  path: files.Path, names: Sequence[str], seed: int = 0
) -> np.ndarray:
  """As `from_folders`, of a CSV file of image names and their groups.

  Extensions of the names in the file are ignored.
  """
  index = {name: i for i, name in enumerate(names)}
  groups = [""] * len(names)
  for name, group in _rows(path):
    if (i := _find(name, index)) is not None:
      groups[i] = group
  pairs = _pairs_within(groups, seed)
  if not len(pairs):
    raise errors.InputError(
      f"groups of two or more of the images, such as {names[0]}", "none", path
    )
  return pairs


def from_pairs(path: files.Path, names: Sequence[str]) -> np.ndarray:
  """Read pairs of names from a CSV file: [P, 2] indices of names.

  Extensions in the file are ignored, and pairs of unknown names are skipped.
  """
  index = {name: i for i, name in enumerate(names)}
  pairs = [[_find(name, index) for name in row] for row in _rows(path)]
  pairs = [pair for pair in pairs if None not in pair]
  if not pairs:
    raise errors.InputError(
      f"pairs of the images, such as {names[0]}", "none", path
    )
  return np.array(pairs)


def _pairs_within(groups, seed):
  """Return the pairs of indices, [P, 2], of one group that is not ""."""
  labels, inverse = np.unique(groups, return_inverse=True)
  order = np.argsort(inverse, kind="stable")
  members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
  generator = np.random.default_rng(seed)
  pairs = [np.zeros([0, 2], dtype=np.int64)]
  for label, own in zip(labels, members, strict=True):
    if label and len(own) > 1:
      one, two = np.triu_indices(len(own), 1)
      if len(one) > _MOST_IN_GROUP:
        some = generator.choice(len(one), _MOST_IN_GROUP, replace=False)
        one, two = one[some], two[some]
      pairs.append(np.stack([own[one], own[two]], axis=1))
  return np.concatenate(pairs)


def _rows(path):
  """Return the first two values of each row of a CSV file."""
  try:
    rows = list(csv.reader(files.read_lines(path)))
  except csv.Error as error:
    raise errors.InputError("a CSV file", f"{error}", path) from None
  for number, row in enumerate(rows, 1):
    if len(row) < 2:
      raise errors.InputError(
        "two values a row, with a comma between",
        f"{','.join(row)!r} in row {number}",
        path,
      )
  return [[value.strip() for value in row[:2]] for row in rows]


def _find(name, index):
  """Return the index of a name, which may have an extension, or None."""
  return index.get(name, index.get(os.path.splitext(name)[0]))
