"""Aggregates of many images, from feature files to aggregate files."""

import dataclasses
import os
import time

import numpy as np
from absl import logging

from delf.python import (
  aggregate_io,
  aggregation,
  codebook_io,
  config_io,
  errors,
  feature_io,
  files,
  progress,
)
from delf.python.pipelines import (
  aggregate_folder,
  extract_report,
  output_names,
  region_mapping,
)


@dataclasses.dataclass(frozen=True)
class AggregateReport:
  """What became of each image.

  Attributes:
    done: Names of images whose aggregates were written.
    skipped: Names of images whose aggregates were there.
    failed: extract_report.Failure of each image that has none.
    empty: Names of images among `done` that have no features.
    seconds: Wall-clock time, without reading the codebook.
    interrupted: Whether the user ended the work before its end.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[extract_report.Failure, ...] = ()
  empty: tuple[str, ...] = ()
  seconds: float = 0.0
  interrupted: bool = False

  def summary(self):
    """Returns one line for people."""
    state = "interrupted: " if self.interrupted else ""
    empty = f" ({len(self.empty)} without features)" if self.empty else ""
    return (
      f"{state}{len(self.done)} aggregated{empty}, {len(self.skipped)} already"
      f" there, {len(self.failed)} failed in {self.seconds:.1f} s"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.interrupted:
      return errors.INTERRUPTED
    return 1 if self.failed else 0


def aggregate_to_files(
  image_names, features_dir, config, output_dir, mapping_path=None
):
  """Aggregates the local features of images, and writes `<image>.asmk_star`.

  The extension is that of the kind. An image whose features cannot be read is
  reported, and the others go on. A run that was ended at any moment can be
  repeated: it does what is missing, and what is older than its features.
  `aggregation.json` in the folder says what the files are made with; other
  settings are refused there.

  Args:
    image_names: list of str, names of images without extension.
    features_dir: Folder with `<image>.delf` of each, or with the files that the
      mapping names.
    config: AggregationConfig. Regional aggregation without a mapping takes the
      image as its only region.
    output_dir: Local folder, made if need be.
    mapping_path: Path of a CSV file that says which feature files hold the
      regions of each image (see `region_mapping`), or None or "".

  Returns:
    AggregateReport. An interrupt by the user (SIGINT) also ends in one.

  Raises:
    FileNotFoundError: If the codebook, the folder or the mapping is missing.
    InputError: If nothing can be done: no images, a name that leads out of the
      folder, a configuration or codebook that does not fit, a folder of other
      aggregates.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, an AggregateReport, if it was begun.
  """
  config_io.check_aggregation_config(config)
  image_names = list(map(str, image_names))
  if not image_names:
    raise errors.InputError("at least one image", "none")
  for name in image_names:
    output_names.check_inside(name)
  if not os.path.isdir(features_dir):
    raise FileNotFoundError(f"{features_dir}: expected a folder, found none")
  sources = _sources(image_names, features_dir, mapping_path)
  codebook = codebook_io.read_codebook(
    config.codebook_path, config.codebook_size, config.feature_dimensionality
  )
  made_with = aggregate_folder.describe(config, codebook, mapping_path)
  folder = aggregate_folder.AggregateFolder(output_dir, config, made_with)
  skipped = [name for name in sources if folder.has(name, sources[name])]
  todo = [name for name in sources if name not in set(skipped)]
  if not todo:
    return AggregateReport(skipped=tuple(skipped))
  folder.claim(todo)
  words = aggregation.Words(codebook)
  run = _Run(words, aggregate_io.options(config), folder, skipped)
  return run.do({name: sources[name] for name in todo})


class _Run:
  """One pass over the images that are to be aggregated."""

  def __init__(self, words, options, folder, skipped):
    self._words = words
    self._options = options
    self._folder = folder
    self._skipped = skipped
    self._start = time.perf_counter()
    self._done = []
    self._failed = []
    self._empty = []

  def do(self, sources):
    """Aggregates and writes; `sources`: dict of image to feature files."""
    bar = progress.track(sources.items(), "aggregating")
    try:
      for name, paths in bar:
        try:
          regions = _read(paths, self._words)
        except (errors.InputError, OSError) as error:
          self._fail(name, error)
          bar.set_postfix_str(f"{len(self._failed)} failed")
          continue
        self._write(name, regions)
    except KeyboardInterrupt:
      return self._report(interrupted=True)
    except OSError as error:
      error.report = self._report()
      raise
    return self._report()

  def _write(self, name, regions):
    sizes = [len(region) for region in regions]
    aggregated = aggregation.aggregate(
      self._words, np.concatenate(regions), self._options, sizes
    )
    self._folder.write(name, aggregated)
    self._done.append(name)
    if not sum(sizes):
      self._empty.append(name)

  def _fail(self, name, error):
    failure = extract_report.Failure(name, errors.one_line(error))
    logging.info("Failed: %s", failure)
    self._failed.append(failure)

  def _report(self, interrupted=False):
    return AggregateReport(
      done=tuple(self._done),
      skipped=tuple(self._skipped),
      failed=tuple(self._failed),
      empty=tuple(self._empty),
      seconds=time.perf_counter() - self._start,
      interrupted=interrupted,
    )


def _sources(image_names, features_dir, mapping_path):
  """Returns a dict of image to the list of paths of its feature files.

  A name that is repeated is in it once; ids of the mapping count each.
  """
  names = {name: [name] for name in image_names}
  if mapping_path:
    mapping = region_mapping.read(mapping_path, image_names)
    names = {name: mapping.get(name, []) for name in image_names}
  return {
    image: [os.path.join(features_dir, f"{n}{files.DELF}") for n in regions]
    for image, regions in names.items()
  }


def _read(paths, words):
  """Returns the descriptors of each feature file, list of [N, D] float32."""
  if not paths:
    raise errors.InputError("feature files in the mapping", "none")
  regions = []
  for path in paths:
    try:
      found = feature_io.read_local_features(path).descriptors
      regions.append(words.check(found))
    except errors.InputError as error:
      if error.path is not None:
        raise
      raise errors.InputError(error.expected, error.received, path) from None
  return regions
