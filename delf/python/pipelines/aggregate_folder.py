"""The aggregates of one configuration in one folder."""

import hashlib
import json
import os
import pathlib

from absl import logging

import delf
from delf.python import aggregate_io, aggregation, codebook_io, errors, files

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
    "codebook": codebook_io.fingerprint(codebook),
    "num_assignments": config.num_assignments,
    "mapping": None,
  }
  if aggregate_io.kind_of(config) == aggregation.VLAD:
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
    self._extension = aggregate_io.extension(config)
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
      aggregate_io.read(
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
    for path in files.leftovers(self.folder, {*names, RECORD[:-5]}):
      path.unlink(missing_ok=True)

  def write(self, name, aggregated):
    """Writes an image's aggregation.Aggregated whole or not at all."""
    aggregate_io.write(self.path(name), aggregated)

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
