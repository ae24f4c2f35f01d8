"""The feature files of one extraction in one folder."""

import json

import numpy as np
from absl import logging

from delf.python import datum_io, errors, feature_io, files
from delf.python.pipelines import photo_record, provenance, target_folder

# Says what the feature files beside it were made with, for each head.
RECORD = "extraction.json"

# Extensions of the files of each head.
_EXTENSIONS = {
  "local": (files.DELF, files.DELG_LOCAL),
  "global": (files.DELG_GLOBAL,),
}
_ALL_EXTENSIONS = sum(_EXTENSIONS.values(), ())


class OutputFolder:
  """Feature files of one configuration in one folder."""

  wants_images = False  # To write a result.

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
    self.folder = target_folder.local_folder(folder)
    self._made_with = made_with
    self._recorded = {}
    self._replaced = []  # Heads whose files have been made with other settings.
    self._photos = photo_record.PhotoRecord(self.folder)
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

  def check(self, jobs, overwrite):
    """Checks that no file would be under a record of other settings.

    Args:
      jobs: Images that are asked for.
      overwrite: Whether their files are to be made anew.

    Raises:
      InputError: If what is there was made with another model or settings, and
        stays there; it names what differs. Nothing has been changed then.
    """
    path = self.folder / RECORD
    if not path.exists():
      return
    try:
      self._recorded, differences = self._compare(files.read_bytes(path))
    except (ValueError, KeyError, TypeError, RecursionError):
      if not overwrite:
        raise errors.InputError(
          "a record of what the features were made with", "something else", path
        ) from None
      differences = dict.fromkeys(self._made_with, "by what is not known")
    for head, words in differences.items():
      if not overwrite:
        raise errors.InputError(
          "features of the same model and settings, or --overwrite",
          f"{head} features made {words}",
          path,
        )
      self._check_no_others(jobs, head, words)
      self._replaced.append(head)

  def _compare(self, data):
    """Returns the record, and {head: words} of what was made otherwise."""
    found = json.loads(data)
    if not found or set(found) - set(_EXTENSIONS):
      raise ValueError
    words = {
      head: provenance.difference(found[head], made_with)
      for head, made_with in self._made_with.items()
      if head in found
    }
    return found, {head: word for head, word in words.items() if word}

  def _check_no_others(self, jobs, head, words):
    """Raises InputError if other images than those given have files."""
    ours = {job.name for job in jobs}
    for extension in _EXTENSIONS[head]:
      for path in self.folder.rglob(f"*{extension}"):
        name = path.relative_to(self.folder).as_posix()
        is_temporary = path.name.startswith(".")
        if name.removesuffix(extension) not in ours and not is_temporary:
          raise errors.InputError(
            f"--overwrite of all images that have {head} features made {words}",
            f"only some: {name} would stay",
            self.folder,
          )

  def divide(self, jobs):
    """Returns the jobs that are to be done, and those that are done.

    Done are images all of whose files are there, each as large as it was
    written. Files without a record of their photo, as of other programs, must
    be readable. The photo of a record must be the one that is there today, by
    its size.
    """
    todo, done = [], []
    changed = unknown = 0
    for job in jobs:
      known = self._photos.has(job)
      if self._photos.has_changed(job):
        changed += 1
        todo.append(job)
      elif all(
        self._photos.is_whole(job, path) if known else _is_whole(path)
        for path in self.paths(job)
      ):
        unknown += not known
        done.append(job)
      else:
        todo.append(job)
    if changed:
      logging.info("%d photos are others than before: done again.", changed)
    if unknown:
      logging.warning(
        "%s: %d images had features without a record of their photo: kept. "
        "--overwrite does them again.",
        self.folder,
        unknown,
      )
    return todo, done

  def prepare(self):
    """Makes the folder, and sees whether files can be written in it.

    Raises:
      OSError: If not; it names the folder.
    """
    target_folder.make_and_try(self.folder)

  def claim(self, jobs, overwrite):
    """Records what the files will be made with, and removes what is stale.

    Args:
      jobs: Images that are about to be extracted.
      overwrite: Whether to remove the files that they have.
    """
    target_folder.remove_leftovers(self.folder, jobs, RECORD)
    # First, so that a run that is killed cannot leave files of another model
    # under the new record.
    for job in jobs:
      stale = self.extensions if overwrite else ()
      if self._replaced or self._photos.has_changed(job):
        stale = _ALL_EXTENSIONS
      for extension in stale:
        (self.folder / f"{job.name}{extension}").unlink(missing_ok=True)
    record = self._recorded | self._made_with
    text = json.dumps(record, indent=2) + "\n"
    files.write_bytes(self.folder / RECORD, text.encode())

  def remove_after(self, name_of, number):
    """Removes the files of parts that are no more; see `PhotoRecord`."""
    self._photos.remove_after(name_of, number)

  def close(self):
    """Ends the writing."""
    self._photos.close()

  def write(self, job, features):
    """Writes the files of one image, each whole or not at all.

    Args:
      job: Job.
      features: features.ImageFeatures; an image that is too small for a global
        descriptor gets an empty one, [0].
    """
    sizes = {}
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
      sizes[path.suffix] = len(data)
    self._photos.add(job, sizes)


def _is_whole(path):
  try:
    if path.suffix == files.DELG_GLOBAL:
      datum_io.ReadFromFile(path)
    else:
      feature_io.ReadFromFile(path)
  except (OSError, ValueError):
    return False
  return True
