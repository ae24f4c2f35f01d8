"""The feature files that parameters are fitted to, from features or photos."""

import dataclasses
import os

from delf.python import errors, files
from delf.python.pipelines import (
  extract,
  extract_report,
  feature_files,
  image_names,
  settings,
)


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
  failed: tuple[extract_report.Failure, ...] = ()


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
    return feature_files.find(source, kind)
  except errors.InputError:
    _refuse_other_kind(source, kind)
    return []


def _refuse_other_kind(source, kind):
  """Raises an InputError if a folder has features of the other kind."""
  for other in feature_files.EXTENSIONS.keys() - {kind}:
    try:
      feature_files.find(source, other)
    except errors.InputError:
      continue
    raise errors.InputError(
      f"{kind} features ({', '.join(feature_files.EXTENSIONS[kind])})",
      f"{other} ones alone",
      source,
    )


def _extract(sources, kind, extraction, raw):
  images, names = image_names.find(sources)
  config = settings.choose(extraction.model, extraction.config)
  config.use_local_features = kind == feature_files.LOCAL
  config.use_global_features = kind == feature_files.GLOBAL
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
