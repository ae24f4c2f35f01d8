"""Aggregates of many images, from feature files to aggregate files."""

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
from delf.protos import aggregation_config_pb2
from delf.python import feature_io

# What the aggregates beside it were made with, for each extension.
RECORD = "aggregation.json"


def describe(
  config: aggregation_config_pb2.AggregationConfig,
  codebook: np.ndarray,
  mapping_path: str | os.PathLike | None = None,
) -> dict:
  """Return what decides the content of aggregates, for JSON."""
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
  """Read what a folder's aggregates were made with, by their extension."""
  record = manifest.read(folder / RECORD) or {}
  if not all(isinstance(made_with, dict) for made_with in record.values()):
    raise errors.InputError(
      "a record of what the aggregates were made with",
      "something else",
      folder / RECORD,
    )
  return record


class AggregateFolder(extract.OutputFolder):
  """Aggregates of one configuration in one folder."""

  record, content, maker = RECORD, "files", "codebook"
  advice = "another folder"
  for_people = ("delf_version", "codebook_path")

  def __init__(
    self,
    folder: str | os.PathLike,
    config: aggregation_config_pb2.AggregationConfig,
    made_with: dict,
    sources: dict[str, list[str]],
  ):
    """Read the record of a folder, which need not exist.

    Sources are the paths of the feature files of each image.
    """
    extension = aggregate.extension(config)
    super().__init__(folder, {extension: made_with})
    self.endings = (extension,)
    self._config, self._sources = config, sources
    self.without_features, self._empty = set(), []
    if not self._read_record() and any(self.folder.glob(f"*{extension}")):
      logging.warning(
        "%s: %s files without a record of what they were made with: kept.",
        self.folder,
        extension,
      )

  def _read_record(self):
    return read_record(self.folder)

  def is_done(self, job: engine.Job) -> bool:
    """Return whether an aggregate is whole, and newer than its features."""
    (path,), sources = self.paths(job), self._sources[job.name]
    try:
      written = os.stat(path).st_mtime_ns
      if any(os.stat(source).st_mtime_ns > written for source in sources):
        return False
      aggregate.read(
        path, self._config.feature_dimensionality, self._config.codebook_size
      )
    except (OSError, errors.InputError):
      return False
    return True

  def write(self, job: engine.Job, aggregated: aggregate.Aggregated) -> None:
    """Write an image's aggregate, whole or not at all."""
    aggregate.write(self.paths(job)[0], aggregated)
    if job.name in self.without_features:
      self._empty.append(job.name)

  def report_fields(self) -> dict:
    """Return the field of the report that AggregateReport adds."""
    return {"empty": tuple(self._empty)}


@dataclasses.dataclass(frozen=True)
class AggregateReport(engine.Report):
  """Result of an aggregation; images go by their names."""

  empty: tuple[str, ...] = ()  # Images among `done` that have no features.

  @property
  def _verb(self):
    empty = f" ({len(self.empty)} without features)" if self.empty else ""
    return f"aggregated{empty}"


def aggregate_to_files(
  image_names: Sequence[str],
  features_dir: str | os.PathLike,
  config: aggregation_config_pb2.AggregationConfig,
  output_dir: str | os.PathLike,
  mapping_path: str | os.PathLike | None = None,
) -> AggregateReport:
  """Aggregate the local features of images, and write `<image>.asmk_star`.

  The extension is that of the kind. An image whose features cannot be read is
  reported, and the others continue. A run that was stopped at any moment can be
  repeated: it does what is missing, and what is older than its features.
  `aggregation.json` in the folder has what the files are made with; other
  settings are refused there. After an OSError its `report` has what was done.

  Args:
    image_names: Names of images without extension.
    features_dir: Folder with `<image>.delf` of each, or with the files that the
      mapping names.
    config: Of regional aggregation without a mapping, the image is its only
      region.
    output_dir: Local folder, made if need be.
    mapping_path: CSV file of the feature files of the regions of each image
      (`regions.read`), or None or "".
  """
  configs.check_aggregation_config(config)
  image_names = list(map(str, image_names))
  plan = engine.plan(image_names, image_names)
  if not os.path.isdir(features_dir):
    raise FileNotFoundError(f"{features_dir}: expected a folder, found none")
  names = {name: [name] for name in image_names}
  if mapping_path:
    mapping = regions.read(mapping_path, image_names)
    names = {name: mapping.get(name, []) for name in image_names}
  sources = {
    image: [os.path.join(features_dir, f"{n}{files.DELF}") for n in parts]
    for image, parts in names.items()
  }
  codebook = visual_words.read_configured(config)
  made_with = describe(config, codebook, mapping_path)
  folder = AggregateFolder(output_dir, config, made_with, sources)
  folder.check(plan, overwrite=False)
  done = {job.name for job in plan if folder.is_done(job)}
  todo = [job for job in plan if job.name not in done]
  report = AggregateReport(
    skipped=tuple(job.name for job in plan if job.name in done)
  )
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
          raise errors.InputError("feature files in the mapping", "none")
      except (errors.InputError, OSError) as error:
        yield engine.Decoded(job), error
      else:
        sizes = [len(part) for part in parts]
        if not sum(sizes):
          folder.without_features.add(job.name)
        yield (
          engine.Decoded(job),
          aggregate.aggregate(words, np.concatenate(parts), options, sizes),
        )
      bar.update(1)

  with progress.count("aggregating", len(todo)) as bar:
    return engine.Run(folder, report).do(results(), todo, bar)


def _read(path, words):
  """Returns the descriptors of a feature file, [N, D] float32."""
  try:
    return words.check(feature_io.read_local_features(path).descriptors)
  except errors.InputError as error:
    if error.path is not None:
      raise
    raise errors.InputError(error.message, path=path) from None
