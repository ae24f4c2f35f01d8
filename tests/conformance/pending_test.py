"""What is still to be built is listed, and the list only shrinks.

`pending.json` lists names and files that users of the original know and that
are not built yet, by topic. Whoever builds one takes it off the list, and
lowers the topic's number below.
"""

import importlib

import pytest
import tables

# The most entries a topic may have: never raised.
_MOST = {}


@pytest.mark.parametrize("entry", sorted(tables.pending("names")))
def test_pending_name_does_not_exist_yet(entry):
  module, _, name = entry.partition(":")
  if not name:
    assert not tables.module_exists(module), "built: take it off the list"
    return
  loaded = importlib.import_module(module)
  assert not hasattr(loaded, name), "built: take it off the list"


@pytest.mark.parametrize("path", sorted(tables.pending("files")))
def test_pending_file_does_not_exist_yet(path):
  assert not (tables.ROOT / path).exists(), "built: take it off the list"


def test_the_list_does_not_grow():
  sizes = {
    topic: len(entries["names"]) + len(entries["files"])
    for topic, entries in tables.load("pending").items()
  }
  assert set(sizes) <= set(_MOST)
  for topic, size in sizes.items():
    assert size == _MOST[topic], "lower the number with the list"


def test_pending_names_are_names_that_users_know():
  api = tables.load("api")
  for entry in tables.pending("names"):
    module, _, name = entry.partition(":")
    known = module in api or any(key.startswith(f"{module}.") for key in api)
    assert known, entry
    assert not name or any(
      listed.split("(")[0] == name for listed in api[module]
    ), entry


def _known_files():
  listed = [path for paths in tables.load("files").values() for path in paths]
  return [*listed, *tables.load("flags")]


@pytest.mark.parametrize("path", _known_files())
def test_file_is_built_or_pending(path):
  pending = path in tables.pending("files")
  assert (tables.ROOT / path).exists() or pending


def test_pending_files_are_files_that_users_know():
  assert set(tables.pending("files")) <= set(_known_files())
