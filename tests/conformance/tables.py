"""Reading the tables of names, flags and formats that users rely on."""

import importlib.util
import json
import pathlib

_FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = _FOLDER.parent.parent


def load(name):
  """Returns the table of a name, for example `api`, as parsed JSON."""
  return json.loads((_FOLDER / f"{name}.json").read_text())


def pending(kind):
  """Returns {entry: topic} of what is not built yet.

  Args:
    kind: "names" (`package.module` or `package.module:name`) or "files" (paths
      relative to the repository root).
  """
  return {
    entry: topic
    for topic, entries in load("pending").items()
    for entry in entries[kind]
  }


def module_exists(module):
  """Returns whether a module can be found; its parents are imported."""
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False
