"""Aggregates of many images, from feature files to aggregate files."""

import dataclasses
import hashlib
import json
import os
import pathlib
import time

import numpy as np
from absl import logging

import delf
from delf.aggregation import aggregate, visual_words
from delf.base import errors, files, progress
from delf.extraction import engine, regions
from delf.formats import configs
from delf.python import feature_io

# Says what the aggregates beside it were made with, for each extension.
RECORD = "aggregation.json"

# Not what decides their content, but for people.
_FOR_PEOPLE = ("delf_version", "codebook_path")


def describe(config, codebook, mapping_path=None):
  """Returns what decides the content of aggregates, for JSON.

  Args:
    config: AggregationConfig.
    codebook: [K, D] float32.
    mapping_path: Path of the mapping to feature files of regions, or None.
  """
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


def read_record(folder):
  """Returns what a folder's aggregates were made with.

  Args:
    folder: pathlib.Path.

  Returns:
    dict of extension -> dict of `describe`; empty if it does not say.

  Raises:
    InputError: If its record is something else.
  """
  path = folder / RECORD
  if not path.exists():
    return {}
  try:
    found = json.loads(files.read_bytes(path))
    return {extension: dict(value) for extension, value in found.items()}
  except (ValueError, TypeError, AttributeError, RecursionError):
    raise errors.InputError(
      "a record of what the aggregates were made with", "something else", path
    ) from None


class AggregateFolder:
  """Aggregates of one configuration in one folder."""

  def __init__(self, folder, config, made_with):
    """Reads what the folder says of what is in it; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      config: AggregationConfig.
      made_with: Result of `describe`.

    Raises:
      InputError: If the folder is none, or has aggregates of this kind that
        were made with something else.
    """
    if files.is_remote(folder):
      raise errors.InputError("a local folder", "a remote one", folder)
    self.folder = pathlib.Path(folder)
    if self.folder.exists() and not self.folder.is_dir():
      raise errors.InputError("a folder to write to", "a file", folder)
    self._config = config
    self._extension = aggregate.extension(config)
    recorded = read_record(self.folder)
    if not recorded:
      self._warn_of_others()
    self._check(recorded.get(self._extension), made_with)
    self._record = recorded | {self._extension: made_with}

  def path(self, name):
    """Returns the path of an image's aggregate."""
    return self.folder / f"{name}{self._extension}"

  def has(self, name, sources):
    """Returns whether an image's aggregate is there, whole and not stale.

    Args:
      name: Name of the image.
      sources: Paths of its feature files; an aggregate that is older than one
        of them is stale.
    """
    path = self.path(name)
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

  def claim(self, names):
    """Makes the folder, records what files in it are made with, and tidies up.

    Args:
      names: Names of the images that are about to be written.

    Raises:
      OSError: If it cannot be written.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(self._record, indent=2) + "\n"
    files.write_bytes(self.folder / RECORD, text.encode())
    for path in files.find_leftovers(self.folder, {*names, RECORD[:-5]}):
      path.unlink(missing_ok=True)

  def write(self, name, aggregated):
    """Writes an image's aggregation.Aggregated whole or not at all."""
    aggregate.write(self.path(name), aggregated)

  def _warn_of_others(self):
    """Says so where files are there of which nothing is known."""
    if any(self.folder.glob(f"*{self._extension}")):
      logging.warning(
        "%s: %s files without a record of what they were made with: kept.",
        self.folder,
        self._extension,
      )

  def _check(self, found, wanted):
    """Raises an InputError if files in the folder are of other settings."""
    for name in sorted(wanted.keys() - set(_FOR_PEOPLE)):
      if found and found.get(name) != wanted[name]:
        raise errors.InputError(
          f"{self._extension} files with {name} {_short(wanted[name])}, or"
          " another folder",
          f"files with {_short(found.get(name))}",
          self.folder / RECORD,
        )


def _short(value):
  """Returns a value, of hashes the first digits, as words for people."""
  return f"{value[:12]}..." if isinstance(value, str) else value


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
  failed: tuple[engine.Failure, ...] = ()
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
  configs.check_aggregation_config(config)
  image_names = list(map(str, image_names))
  if not image_names:
    raise errors.InputError("at least one image", "none")
  for name in image_names:
    files.check_inside(name)
  if not os.path.isdir(features_dir):
    raise FileNotFoundError(f"{features_dir}: expected a folder, found none")
  sources = _sources(image_names, features_dir, mapping_path)
  codebook = visual_words.read_codebook(
    config.codebook_path, config.codebook_size, config.feature_dimensionality
  )
  made_with = describe(config, codebook, mapping_path)
  folder = AggregateFolder(output_dir, config, made_with)
  skipped = [name for name in sources if folder.has(name, sources[name])]
  todo = [name for name in sources if name not in set(skipped)]
  if not todo:
    return AggregateReport(skipped=tuple(skipped))
  folder.claim(todo)
  words = aggregate.Words(codebook)
  run = _Run(words, aggregate.options(config), folder, skipped)
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
    aggregated = aggregate.aggregate(
      self._words, np.concatenate(regions), self._options, sizes
    )
    self._folder.write(name, aggregated)
    self._done.append(name)
    if not sum(sizes):
      self._empty.append(name)

  def _fail(self, name, error):
    failure = engine.Failure(name, errors.one_line(error))
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
    mapping = regions.read(mapping_path, image_names)
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
