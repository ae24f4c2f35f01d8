"""The record of what a training is of, and how another one differs."""

import dataclasses
import hashlib
import json
import pathlib

from delf.python import errors, files
from delf.python.pipelines.train import options, photo_store

RECORD = "training.json"
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class Told:
  """What a training is told.

  Attributes:
    options: options.TrainOptions.
    settings: dict of plain values that two runs are compared by.
    command: Words of the command.
  """

  options: options.TrainOptions
  settings: dict
  command: tuple


def settings_of(found, told, weights):
  """Returns what two runs are compared by.

  Args:
    found: sources.Sources.
    told: options.TrainOptions.
    weights: pathlib.Path of the weights to begin with, or None.

  Returns:
    dict of plain values.
  """
  settings = dataclasses.asdict(told)
  settings["photos"] = (
    f"{len(found.paths)} photos ({photo_store.digest(found.paths)[:12]})"
  )
  if found.labels is not None:
    text = "\0".join(map(str, found.labels)).encode(errors="surrogateescape")
    digest = hashlib.sha256(text).hexdigest()[:12]
    settings["classes"] = f"{len(found.classes())} classes ({digest})"
  if weights is not None:
    digest = hashlib.sha256(files.read_bytes(weights)).hexdigest()[:12]
    settings["first weights"] = digest
  return settings


def refuse_other_things(folder):
  """Refuses a folder of an unfinished run that has others' files in it.

  Args:
    folder: pathlib.Path; hidden files are of a run that ended at once.

  Raises:
    InputError: If it is not of a run; nothing in it may be removed.
  """
  if folder.exists() and not folder.is_dir():
    raise errors.InputError("a folder for what is unfinished", "a file", folder)
  if not folder.exists() or (folder / _SETTINGS).exists():
    return
  if any(not path.name.startswith(".") for path in folder.iterdir()):
    raise errors.InputError(
      "a folder of an unfinished training, or none",
      "one with other things in it",
      folder,
    )


def is_leftover(out, folder, last):
  """Returns whether a run ended between its model and its own removal.

  Args:
    out: pathlib.Path of the model.
    folder: pathlib.Path of the unfinished run.
    last: Name of the file there that a run writes last.
  """
  record, settings = out / RECORD, folder / _SETTINGS
  if not all(path.exists() for path in (record, settings, folder / last)):
    return False
  return _read(record).get("settings") == _read(settings)


def claim(folder, settings):
  """Writes down what a run is of, or compares it with the run before.

  Args:
    folder: pathlib.Path of the unfinished run.
    settings: dict of plain values.

  Raises:
    InputError: If the run there is of others; it names what differs.
  """
  path = folder / _SETTINGS
  if path.exists():
    _refuse_others(path, _read(path), settings, "an unfinished training")
    return
  files.write_bytes(path, json.dumps(settings, indent=2).encode())


def refuse_finished(out, settings, overwrite=False):
  """Refuses a folder that there is; it names how a training in it differs.

  Args:
    out: Folder of the model to be.
    settings: dict of plain values of the run that would be.
    overwrite: Whether a finished training there may be replaced.

  Raises:
    InputError: If there is something.
  """
  out = pathlib.Path(out)
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return
  expected = "a new folder, or --overwrite"
  if not out.is_dir():
    raise errors.InputError("a folder", "a file", out)
  record = out / RECORD
  if not record.exists():
    raise errors.InputError("a new folder", "one with other things in it", out)
  if overwrite:
    return
  found = _read(record).get("settings", {})
  words = _differences(found, settings) or "of the same settings"
  raise errors.InputError(expected, f"a finished model {words}", out)


def _refuse_others(path, found, wanted, what):
  words = _differences(found, wanted)
  if words:
    raise errors.InputError(
      f"{what} of the same photos and settings (or --overwrite)",
      f"one {words}",
      path.parent,
    )


def _differences(found, wanted):
  """Returns words for what differs, "" for nothing."""
  words = []
  for name in sorted(set(found) | set(wanted)):
    one, two = found.get(name), wanted.get(name)
    if one != two:
      words.append(f"with {name} {one}, not {two}")
  return "; ".join(words)


def _read(path):
  try:
    found = json.loads(files.read_bytes(path, limit=2**24))
    if isinstance(found, dict):
      return found
  except (ValueError, RecursionError):
    pass
  raise errors.InputError("a record of a training", "something else", path)
