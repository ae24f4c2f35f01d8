"""PCA, whitening and codebook of a user's own photos: `delf.fit_...`."""

import dataclasses
import os
from typing import Any

from delf.aggregation import clustering, fit
from delf.api.work import Path, Sources, listed
from delf.base import errors, progress
from delf.base.progress import Progress

_shown = progress.shown  # `progress` is an argument below.
# faiss's own limit of features that improve a word.
_FEATURES_A_WORD = 256


def fit_pca(
  sources: Sources,
  out: Path,
  *,
  use_global: bool = False,
  dim: int | None = None,
  features: Path | None = None,
  model: Any = None,
  config: Path | None = None,
  max_size: int | None = None,
  device: str | None = None,
  overwrite: bool = False,
  progress: Progress = True,
) -> fit.PcaReport:
  """Compute the principal components of features, as `delf fit pca` does.

  Args:
    sources: Photos (folder, pattern, list or photo), which are extracted first,
      or folders of feature files; one or several.
    out: Folder for the components, and `pca_parameters.pbtxt`, the part of a
      configuration that uses them.
    use_global: Whether global descriptors are used, in place of local ones.
    dim: Components that the configuration keeps; None for those with 95 % of
      the variance.
    features: Folder for the features of photos; None for `<out>_features`.
    model: With `config`, `max_size` and `device`, as `delf.load` takes them.
    overwrite: Whether files at `out` are replaced.
    progress: Whether to show progress, or a function that is called with a
      label, the steps done, and their number.

  Returns:
    PcaReport: the variance kept, and the photos that failed.

  Example:
    >>> import delf
    >>> _ = delf.sample_photos("sample_photos")
    >>> report = delf.fit_pca(
    ...   "sample_photos", "my_pca", overwrite=True, progress=False
    ... )
    >>> report.dimension
    96
  """
  kind = clustering.GLOBAL if use_global else clustering.LOCAL
  if not overwrite:
    fit.refuse_pca(out)
  how = _extraction(out, features, model, config, max_size, device)
  with _shown(progress):
    features_of = fit.find(listed(sources), kind, **how, raw=True)
    report = fit.fit_pca(features_of.paths, out, dim, overwrite)
  return dataclasses.replace(
    report, failed=(*features_of.failed, *report.failed)
  )


def fit_whitening(
  sources: Sources,
  out: Path,
  *,
  pairs: Path | None = None,
  groups: Path | None = None,
  seed: int = 0,
  features: Path | None = None,
  model: Any = None,
  config: Path | None = None,
  max_size: int | None = None,
  device: str | None = None,
  overwrite: bool = False,
  progress: Progress = True,
) -> fit.WhiteningReport:
  """Learn a whitening of global descriptors, as `delf fit whitening` does.

  Args:
    sources: Photos or feature files, as `fit_pca` takes them; the other
      arguments too.
    out: File of the whitening.
    pairs: CSV file with two photos of one object in a row.
    groups: CSV file with a photo and its object in a row; without it and
      `pairs` each folder is an object.
    seed: Random seed.

  Returns:
    WhiteningReport: the pairs used, and the photos that failed.

  Example:
    >>> import delf
    >>> delf.fit_whitening("no_photos", "my.whitening")
    Traceback (most recent call last):
      ...
    FileNotFoundError: ...
  """
  if pairs and groups:
    raise errors.InputError("pairs and groups exclude each other")
  if not overwrite:
    fit.refuse(out)
  how = _extraction(out, features, model, config, max_size, device)
  with _shown(progress):
    features_of = fit.find(listed(sources), clustering.GLOBAL, **how)
    if pairs:
      chosen = fit.from_pairs(pairs, features_of.names)
    elif groups:
      chosen = fit.from_groups(groups, features_of.names, seed)
    else:
      chosen = fit.from_folders(features_of.names, seed)
    report = fit.fit_whitening(features_of.paths, chosen, out, overwrite)
  return dataclasses.replace(
    report, failed=(*features_of.failed, *report.failed)
  )


def fit_codebook(
  sources: Sources,
  out: Path,
  *,
  words: int = 1024,
  iterations: int = 50,
  max_features: int | None = None,
  method: str = "auto",
  seed: int = 0,
  features: Path | None = None,
  model: Any = None,
  config: Path | None = None,
  max_size: int | None = None,
  device: str | None = None,
  progress: Progress = True,
) -> clustering.ClusterReport:
  """Train a codebook of visual words, as `delf fit codebook` does.

  A run that was interrupted resumes when it is repeated, and gives the same
  codebook.

  Args:
    sources: Photos or feature files, as `fit_pca` takes them; the other
      arguments too.
    out: Prefix of the codebook, a TensorFlow checkpoint.
    words: Number of visual words.
    iterations: Most iterations of k-means.
    max_features: Most features, a random choice; None for 256 a word.
    method: "exact", "approximate", or "auto": exact where an iteration takes at
      most a minute or so.
    seed: Random seed.

  Returns:
    ClusterReport: features, iterations and mean squared distance, and the
    photos that failed.

  Example:
    >>> import delf
    >>> delf.fit_codebook("no_photos", "words/codebook")
    Traceback (most recent call last):
      ...
    FileNotFoundError: ...
  """
  clustering.refuse_finished(out)
  how = _extraction(out, features, model, config, max_size, device)
  with _shown(progress):
    features_of = fit.find(listed(sources), clustering.LOCAL, **how)
    report = clustering.cluster_files(
      features_of.paths,
      out,
      num_clusters=words,
      num_iterations=iterations,
      max_features=max_features or _FEATURES_A_WORD * words,
      seed=seed,
      method=method,
    )
  return dataclasses.replace(
    report, failed=(*features_of.failed, *report.failed)
  )


def _extraction(out, features, model, config, max_size, device):
  folder = features or f"{os.path.normpath(out)}_features"
  how = {"folder": folder, "model": model, "config": config}
  return how | {"max_size": max_size, "device": device}
