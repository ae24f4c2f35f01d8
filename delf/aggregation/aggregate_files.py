"""Aggregation of feature files into one aggregate file per image."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

import delf
from delf.aggregation import aggregate, visual_words
from delf.base import errors, files, manifest, progress
from delf.extraction import engine, extract, regions
from delf.formats import configs
from delf.python import feature_io

# Settings of the aggregates in a folder, by extension.
RECORD = "aggregation.json"


def describe(
  config: aggregate.Config,
  codebook: np.ndarray,
  mapping_path: str | os.PathLike | None = None,
) -> dict:
  """Return the settings that determine the content of aggregates, for JSON."""
  made_with = {
    "delf_version": delf.__version__,
    "codebook_path": config.codebook_path,
    "codebook": visual_words.fingerprint(codebook),
    "num_assignments": config.num_assignments,
    "mapping": None,
  }
  if aggregate.kind_of(config) == aggregate.VLAD:
    made_with["use_l2_normalization"] = config.use_l2_normalization
  if mapping_path:
    data = files.read_bytes(mapping_path)
    made_with["mapping"] = hashlib.sha256(data).hexdigest()
  return made_with


def read_record(folder: pathlib.Path) -> dict[str, dict]:
  """Read the settings of the aggregates in a folder, by extension."""
  record = manifest.read(folder / RECORD) or {}
  if not all(isinstance(made_with, dict) for made_with in record.values()):
    raise errors.InputError("not settings of aggregates", path=folder / RECORD)
  return record


class AggregateFolder(extract.OutputFolder):
  """Aggregates of one configuration in one folder."""

  record, content, maker = RECORD, "files", "codebook"
  advice = "another folder"
  for_people = ("delf_version", "codebook_path")

  def __init__(
    self,
    folder: str | os.PathLike,
    config: aggregate.Config,
    made_with: dict,
    sources: dict[str, list[str]],
  ) -> None:
    """Read the record of a folder, which need not exist.

    `sources` are the paths of the feature files of each image.
    """
    extension = aggregate.extension(config)
    super().__init__(folder, {extension: made_with})
    self.endings = (extension,)
    self._config, self._sources = config, sources
    self.without_features: set[str] = set()
    self._empty: list[str] = []
    if not self._read_record() and any(self.folder.glob(f"*{extension}")):
      message = "%s: Keeping %s files although their settings are not recorded."
      logging.warning(message, self.folder, extension)

  def _read_record(self):
    return read_record(self.folder)

  def is_done(self, job: engine.Job) -> bool:
    """Return whether an aggregate is complete and newer than its features."""
    (path,), config = self.paths(job), self._config
    try:
      made = [os.stat(each).st_mtime_ns for each in self._sources[job.name]]
      aggregate.read(path, config.feature_dimensionality, config.codebook_size)
      return os.stat(path).st_mtime_ns >= max(made, default=0)
    except (OSError, errors.InputError):
      return False

  def write(self, job: engine.Job, aggregated: aggregate.Aggregated) -> None:
    """Write the aggregate of an image, whole or not at all."""
    aggregate.write(self.paths(job)[0], aggregated)
    if job.name in self.without_features:
      self._empty.append(job.name)

  def report_fields(self) -> dict:
    """Return the field that AggregateReport adds to a report."""
    return {"empty": tuple(self._empty)}


@dataclasses.dataclass(frozen=True)
class AggregateReport(engine.Report):
  """Result of an aggregation; images are listed by name."""

  empty: tuple[str, ...] = ()  # Images among `done` that have no features.

  @property
  def _verb(self):  # type: ignore[override]
    empty = f" ({len(self.empty)} without features)" if self.empty else ""
    return f"aggregated{empty}"


def aggregate_to_files(
  image_names: Sequence[str],
  features_dir: str | os.PathLike,
  config: aggregate.Config,
  output_dir: str | os.PathLike,
  mapping_path: str | os.PathLike | None = None,
) -> AggregateReport:
  """Aggregate the local features of images into files such as `a.asmk_star`.

  The extension names the kind. An image with unreadable features is reported,
  and the others are processed. Repeating an interrupted run resumes it: it
  makes files that are missing or older than their features. `aggregation.json`
  in the output folder records the settings; a run with other settings is
  refused. An OSError in writing has a `report` of the finished images.

  Args:
    image_names: Names of images without extension.
    features_dir: Folder with `<image>.delf` of each image, or with the files
      that the mapping names.
    config: With regional aggregation but no mapping, an image is its only
      region.
    output_dir: Local folder, created if missing.
    mapping_path: CSV file with the feature files of the regions of each image
      (`regions.read`), or None or "".
  """
  configs.check_aggregation_config(config)
  image_names = list(map(str, image_names))
  plan = engine.plan(image_names, image_names)
  if not os.path.isdir(features_dir):
    raise FileNotFoundError(f"{features_dir}: no such folder")
  parts = {name: [name] for name in image_names}
  if mapping_path:
    parts = regions.read(mapping_path, image_names)
  sources = {
    name: [
      os.path.join(features_dir, f"{part}{files.DELF}")
      for part in parts.get(name, ())
    ]
    for name in image_names
  }
  codebook = visual_words.read_configured(config)
  made_with = describe(config, codebook, mapping_path)
  folder = AggregateFolder(output_dir, config, made_with, sources)
  folder.check(plan, overwrite=False)
  done = {job.name: None for job in plan if folder.is_done(job)}
  todo = [job for job in plan if job.name not in done]
  report = AggregateReport(skipped=tuple(done))
  if not todo:
    return report
  folder.prepare()
  words = aggregate.Words(codebook)
  options = aggregate.options(config)

  def results():
    for job in todo:
      try:
        parts = [_read(path, words) for path in sources[job.name]]
        if not parts:
          raise errors.InputError("the mapping lists no feature files")
      except (errors.InputError, OSError) as error:
        yield engine.Decoded(job), error
      else:
        sizes = [len(part) for part in parts]
        if not sum(sizes):
          folder.without_features.add(job.name)
        features = np.concatenate(parts)
        result = aggregate.aggregate(words, features, options, sizes)
        yield engine.Decoded(job), result
      bar.update(1)

  with progress.count("aggregating", len(todo)) as bar:
    return engine.Run(folder, report).do(results(), todo, bar)


def _read(path, words):
  try:
    return words.check(feature_io.read_local_features(path).descriptors)
  except errors.InputError as error:
    if error.path is not None:
      raise
    raise errors.InputError(error.message, path=path) from None
