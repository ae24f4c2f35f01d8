"""Scripts have the flags, types and defaults that users know.

Each script is started as a user starts it, by path and with `-m`, and says
which flags it has (`--helpxml`).
"""

import functools
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import tables

_FLAGS = tables.load("flags")
_BUILT = [path for path in _FLAGS if path not in tables.pending("files")]
_TYPES = {
  "string": "string",
  "int": "integer",
  "float": "float",
  "bool": "boolean",
  "string enum": "enum",
  "comma separated list of strings": "list",
}


@functools.cache
def _helpxml(path, as_module):
  """Returns {flag: {"type", "default", "values"}} as a script says."""
  script = str(tables.ROOT / path)
  module = path.removesuffix(".py").replace("/", ".")
  command = ["-m", module] if as_module else [script]
  environment = {**os.environ, "PYTHONPATH": str(tables.ROOT)}
  result = subprocess.run(
    [sys.executable, *command, "--helpxml"],
    env=environment,
    capture_output=True,
    text=True,
    timeout=120,
  )
  start = result.stdout.find("<?xml")
  assert start >= 0, result.stderr or result.stdout
  root = ElementTree.fromstring(result.stdout[start:])
  return {flag.findtext("name"): flag for flag in root.iter("flag")}


def _parse(text, kind):
  if kind in ("integer", "float"):
    return float(text)
  if kind == "boolean":
    return text == "true"
  return text


@pytest.mark.slow
@pytest.mark.parametrize("as_module", [False, True], ids=["path", "module"])
@pytest.mark.parametrize("path", _BUILT)
def test_script_has_the_flags_that_users_know(path, as_module):
  found = _helpxml(path, as_module)
  for name, expected in _FLAGS[path].items():
    assert name in found, f"--{name}"
    flag = found[name]
    assert _TYPES[flag.findtext("type")] == expected["type"], f"--{name}"
    default = flag.findtext("default")
    if expected["default"] is None:
      assert not default or default == "None", f"--{name}"
    else:
      assert _parse(default, expected["type"]) == expected["default"], name
    if "values" in expected:
      values = [value.text for value in flag.findall("enum_value")]
      assert values == expected["values"], f"--{name}"


def test_most_scripts_are_in_the_table():
  assert set(_BUILT) >= {
    "delf/python/examples/extract_features.py",
    "delf/python/examples/match_images.py",
    "delf/python/training/model/export_global_model.py",
    "delf/python/training/model/export_local_and_global_model.py",
    "delf/python/training/model/export_local_model.py",
  }
