"""Parameters of a user's own: PCA and whitening from feature files.

Codebooks are `pipelines.cluster`'s.
"""

import csv
import dataclasses
import os

import numpy as np

from delf.aggregation import clustering
from delf.base import errors, files, progress
from delf.extraction import engine, extract, jobs
from delf.inference import extractor, zoo
from delf.python import datum_io, whiten

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
  failed: tuple[engine.Failure, ...] = ()


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
  failed: tuple[engine.Failure, ...] = ()


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
  reader, moments = clustering.Reader(), extractor.Moments()
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
  reader, found = clustering.Reader(), []
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


@dataclasses.dataclass(frozen=True)
class Extraction:
  """How photos are extracted, where photos are given.

  Attributes:
    folder: Folder that their features go to, and are found in again.
    model: Name or path of a model, or None.
    config: Path of a `.pbtxt` configuration, or None.
    max_size: Pixels that the longer side is scaled down to, or None.
    device: Device, or None for the best there is.
  """

  folder: str
  model: str | None = None
  config: str | None = None
  max_size: int | None = None
  device: str | None = None


@dataclasses.dataclass(frozen=True)
class Sources:
  """Feature files, with names relative to their folders, without extension.

  Attributes:
    paths: Paths of feature files.
    names: Name of each image.
    failed: extract_report.Failure of each photo that was left out.
  """

  paths: list[str]
  names: list[str]
  failed: tuple[engine.Failure, ...] = ()


def find(sources, kind, extraction, raw=False):
  """Finds the feature files that sources stand for.

  Args:
    sources: Folders of feature files, or else folders, patterns and lists of
      photos, which are extracted first; those that are done are not done again.
    kind: feature_files.LOCAL or GLOBAL.
    extraction: Extraction.
    raw: Whether photos are extracted without the PCA of the configuration, as
      what is to be fitted is one.

  Returns:
    Sources.

  Raises:
    FileNotFoundError: If a source is not there.
    InputError: If there is neither kind of file, or one is of features and
      another of photos.
    KeyboardInterrupt: If the extraction was interrupted.
  """
  found = [_features(source, kind) for source in sources]
  if all(found):
    names = [
      name
      for source, paths in zip(sources, found, strict=True)
      for name in _names(paths, source)
    ]
    return Sources([path for paths in found for path in paths], names)
  if any(found):
    raise errors.InputError(
      "folders of features alone, or photos alone", "both", sources[0]
    )
  return _extract(sources, kind, extraction, raw)


def _features(source, kind):
  """Returns the feature files of a folder, [] if it is something else."""
  if not os.path.isdir(source):
    return []
  try:
    return clustering.find(source, kind)
  except errors.InputError:
    _refuse_other_kind(source, kind)
    return []


def _refuse_other_kind(source, kind):
  """Raises an InputError if a folder has features of the other kind."""
  for other in clustering.EXTENSIONS.keys() - {kind}:
    try:
      clustering.find(source, other)
    except errors.InputError:
      continue
    raise errors.InputError(
      f"{kind} features ({', '.join(clustering.EXTENSIONS[kind])})",
      f"{other} ones alone",
      source,
    )


def _extract(sources, kind, extraction, raw):
  images, names = jobs.find(sources)
  config = zoo.choose(extraction.model, extraction.config)
  config.use_local_features = kind == clustering.LOCAL
  config.use_global_features = kind == clustering.GLOBAL
  if raw:
    config.delf_local_config.use_pca = False
    config.delf_global_config.use_pca = False
  if extraction.max_size:
    config.max_image_size = extraction.max_size
  report = extract.extract_to_files(
    images, config, extraction.folder, names=names, device=extraction.device
  )
  if report.interrupted:
    raise KeyboardInterrupt
  extension = files.DELF if config.use_local_features else files.DELG_GLOBAL
  failed = {failure.path for failure in report.failed}
  done = [
    name
    for image, name in zip(images, names, strict=True)
    if image not in failed
  ]
  if not done:
    raise errors.InputError(
      "photos with features",
      f"none; first of {len(failed)} that failed: {report.failed[0]}",
    )
  paths = [os.path.join(extraction.folder, name + extension) for name in done]
  return Sources(paths, done, report.failed)


def _names(paths, folder):
  return [os.path.splitext(os.path.relpath(p, folder))[0] for p in paths]


# Most pairs of one group: 500 of one thing say little that 5000 do not.
_MOST_IN_GROUP = 500


def from_folders(names, seed=0):
  """Pairs images that are in one folder; those in no folder are in no pair.

  Args:
    names: Names of images such as `colosseum/1`.
    seed: int, decides which pairs of a large group are in.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    InputError: If there are no two images in one folder.
  """
  found = _within([os.path.dirname(name) for name in names], seed)
  if not len(found):
    raise errors.InputError(
      "folders with two or more images of one object each (or --pairs, or "
      "--groups)",
      "none",
    )
  return found


def from_groups(path, names, seed=0):
  """Pairs images that a file puts into one group.

  Args:
    path: Path of a CSV file: image name, name of its group.
    names: Names of images; extensions in the file do not matter.
    seed: int, decides which pairs of a large group are in.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a row has less than two values, or no group has two images.
  """
  places = {name: place for place, name in enumerate(names)}
  groups = [""] * len(names)
  for name, group in _rows(path):
    place = _find(name, places)
    if place is not None:
      groups[place] = group
  found = _within(groups, seed)
  if not len(found):
    raise errors.InputError(
      f"groups of two or more of the images, such as {names[0]}", "none", path
    )
  return found


def from_pairs(path, names):
  """Reads pairs; those of an image that is not there are left out.

  Args:
    path: Path of a CSV file: name of an image, name of another.
    names: Names of images; extensions in the file do not matter.

  Returns:
    [P, 2] int, positions in `names`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a row has less than two values, or no pair is there.
  """
  places = {name: place for place, name in enumerate(names)}
  found = [[_find(one, places), _find(two, places)] for one, two in _rows(path)]
  found = [pair for pair in found if None not in pair]
  if not found:
    raise errors.InputError(
      f"pairs of the images, such as {names[0]}", "none", path
    )
  return np.array(found)


def _within(groups, seed):
  """Returns the pairs of places, [P, 2], of one group that is not ""."""
  labels, inverse = np.unique(groups, return_inverse=True)
  order = np.argsort(inverse, kind="stable")
  members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
  generator = np.random.default_rng(seed)
  found = [np.zeros([0, 2], dtype=np.int64)]
  for label, places in zip(labels, members, strict=True):
    if label and len(places) > 1:
      one, two = np.triu_indices(len(places), 1)
      if len(one) > _MOST_IN_GROUP:
        some = generator.choice(len(one), _MOST_IN_GROUP, replace=False)
        one, two = one[some], two[some]
      found.append(np.stack([places[one], places[two]], axis=1))
  return np.concatenate(found)


def _rows(path):
  """Returns the first two values of each row of a CSV file."""
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


def _find(name, places):
  """Returns the place of a name, which may have an extension, or None."""
  return places.get(name, places.get(os.path.splitext(name)[0]))
