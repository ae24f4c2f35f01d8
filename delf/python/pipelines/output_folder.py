"""The feature files of one extraction in one folder."""

import dataclasses
import json
import os
import pathlib

import numpy as np

from delf.python import datum_io, errors, feature_io, files
from delf.python.pipelines import provenance

# Says what the feature files beside it were made with.
RECORD = "extraction.json"


@dataclasses.dataclass(frozen=True)
class Job:
  """One image to extract.

  Attributes:
    path: Path of the image.
    name: Path of its outputs in the folder, without extension.
  """

  path: str
  name: str


def plan(images, names=None):
  """Returns jobs, after checking that each has an output name of its own.

  Args:
    images: Paths of images. One that is repeated is done once.
    names: Output name of each, without extension, or None: base names.

  Returns:
    list of Job.

  Raises:
    InputError: If there are no images, or two would be written to one name.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise errors.InputError("at least one image", "none")
  if names is None:
    names = [os.path.splitext(os.path.basename(path))[0] for path in images]
  owners = {}
  for path, name in zip(images, names, strict=True):
    other = owners.setdefault(name, path)
    if other != path:
      raise errors.InputError(
        "a different output name for each image",
        f"{name!r} for both {other} and {path}",
      )
  return [Job(path, name) for name, path in owners.items()]


class OutputFolder:
  """Feature files of one configuration in one folder."""

  def __init__(self, folder, config, local_extension, made_with):
    """Creates it; nothing is written yet.

    Args:
      folder: Local path; need not exist.
      config: delf_config_pb2.DelfConfig: which files an image has.
      local_extension: Extension of local features' files.
      made_with: Result of `provenance.describe`.

    Raises:
      InputError: If the folder is not a local one, or is a file.
    """
    if files.is_remote(folder):
      raise errors.InputError("a local folder", "a remote one", folder)
    self.folder = pathlib.Path(folder)
    if self.folder.exists() and not self.folder.is_dir():
      raise errors.InputError("a folder to write to", "a file", folder)
    self._made_with = made_with
    self.extensions = []
    if config.use_local_features:
      self.extensions.append(local_extension)
    if config.use_global_features:
      self.extensions.append(files.DELG_GLOBAL)
    if not self.extensions:
      raise errors.InputError(
        "use_local_features or use_global_features", "a configuration of none"
      )

  def paths(self, job):
    """Returns the paths of all files that an image has when it is done."""
    return [self.folder / f"{job.name}{e}" for e in self.extensions]

  def is_done(self, job):
    """Returns whether all files of an image are there and can be read."""
    return all(_is_whole(path) for path in self.paths(job))

  def check(self):
    """Checks that what is there was made with the same model and settings.

    Raises:
      InputError: If not; it names what differs.
    """
    path = self.folder / RECORD
    if not path.exists():
      return
    try:
      found = json.loads(files.read_bytes(path))
      difference = provenance.difference(
        found["identity"], self._made_with["identity"]
      )
    except (ValueError, KeyError, TypeError):
      raise errors.InputError(
        "a record of what the features were made with", "something else", path
      ) from None
    if difference:
      raise errors.InputError(
        "features of the same model and settings, or --overwrite",
        f"features made {difference}",
        path,
      )

  def claim(self, jobs, overwrite):
    """Records what the files will be made with, and removes what is stale.

    Args:
      jobs: Images that are about to be extracted.
      overwrite: Whether to remove the files that they have.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(self.folder, jobs)
    if overwrite:
      # First, so that a run that is killed cannot leave files of another model
      # under the new record.
      for job in jobs:
        for path in self.paths(job):
          path.unlink(missing_ok=True)
    text = json.dumps(self._made_with, indent=2) + "\n"
    files.write_bytes(self.folder / RECORD, text.encode())

  def write(self, job, features):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: Job.
      features: features.ImageFeatures; an image that is too small for a global
        descriptor gets an empty one, [0].
    """
    for path in self.paths(job):
      if path.suffix == files.DELG_GLOBAL:
        descriptor = features.global_descriptor
        if descriptor is None:
          descriptor = np.zeros([0], dtype=np.float32)
        data = datum_io.SerializeToString(descriptor)
      else:
        data = feature_io.SerializeToString(
          features.local.locations,
          features.local.scales,
          features.local.descriptors,
          features.local.attention,
          features.local.orientations,
        )
      files.write_bytes(path, data)


def _is_whole(path):
  # Files of other programs may be cut; ours are whole if they are there.
  try:
    if path.suffix == files.DELG_GLOBAL:
      datum_io.ReadFromFile(path)
    else:
      feature_io.ReadFromFile(path)
  except (OSError, ValueError):
    return False
  return True


def _remove_leftovers(folder, jobs):
  """Removes temporary files that a killed run left for the same images."""
  stems = {"": {pathlib.Path(RECORD).stem}}
  for job in jobs:
    parent, stem = os.path.split(job.name)
    stems.setdefault(parent, set()).add(stem)
  for parent, names in stems.items():
    for path in files.leftovers(folder / parent, names):
      path.unlink(missing_ok=True)
