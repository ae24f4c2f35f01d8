"""Protos have the fields they always had; each file extension has a reader."""

import importlib

import numpy as np
import pytest
import tables
from google.protobuf import descriptor

from delf.base import files
from delf.python import box_io, datum_io, feature_io

_FORMATS = tables.load("formats")
_MESSAGES = [
  (module, message)
  for module, messages in _FORMATS["protos"].items()
  for message in messages
]
_KIND = descriptor.FieldDescriptor
_TYPES = {
  _KIND.TYPE_FLOAT: "float",
  _KIND.TYPE_INT32: "int32",
  _KIND.TYPE_INT64: "int64",
  _KIND.TYPE_UINT32: "uint32",
  _KIND.TYPE_BOOL: "bool",
  _KIND.TYPE_STRING: "string",
}


def _default(field):
  if field.enum_type is not None:
    return field.enum_type.values_by_number[field.default_value].name
  return repr(field.default_value)


def _describe(field):
  """Returns a field's number, label, type and default as in the table."""
  referred = field.message_type or field.enum_type
  kind = referred.name if referred else _TYPES[field.type]
  words = [str(field.number)]
  words.append("repeated" if field.is_repeated else "optional")
  words.append(kind)
  if field.is_packed:
    words.append("packed")
  if field.message_type is None and not field.is_repeated:
    words.append(_default(field))
  if field.containing_oneof is not None:
    words.append(f"oneof {field.containing_oneof.name}")
  return " ".join(words)


def _load(dotted):
  module, *names = dotted.split(".")
  found = importlib.import_module(f"delf.protos.{module}")
  for name in names:
    found = getattr(found, name)
  return found


@pytest.mark.parametrize(("module", "message"), _MESSAGES)
def test_message_has_the_fields_it_always_had(module, message):
  found = _load(f"{module}.{message}").DESCRIPTOR
  assert found.full_name == f"delf.protos.{message}"
  fields = {field.name: _describe(field) for field in found.fields}
  assert fields == _FORMATS["protos"][module][message]


@pytest.mark.parametrize("module", _FORMATS["protos"])
def test_proto_has_no_other_messages(module):
  found = _load(module).DESCRIPTOR
  assert found.package == "delf.protos"
  assert set(found.message_types_by_name) == set(_FORMATS["protos"][module])


@pytest.mark.parametrize("enum", _FORMATS["enums"])
def test_enum_has_the_values_it_always_had(enum):
  assert dict(_load(enum).items()) == _FORMATS["enums"][enum]


def _write_sample(path, reader):
  """Writes a small file of the format that a reader reads."""
  values = np.arange(6, dtype=np.float32)
  if reader.__module__ == feature_io.__name__:
    rows = values.reshape(3, 2)
    feature_io.WriteToFile(str(path), rows, rows[:, 0], rows, rows[:, 1])
  elif reader.__module__ == box_io.__name__:
    corners = np.array([[0, 0, 0.5, 1]], np.float32)
    box_io.WriteToFile(str(path), corners, np.ones(1), np.ones(1, np.int32))
  elif reader is datum_io.ReadPairFromFile:
    words = np.arange(6, dtype=np.uint32)
    datum_io.WritePairToFile(values, words, str(path))
  else:
    datum_io.WriteToFile(values, str(path))


@pytest.mark.parametrize("extension", _FORMATS["readers"])
def test_extension_has_a_reader(extension, tmp_path):
  module, name = _FORMATS["readers"][extension].split(":")
  reader = getattr(importlib.import_module(module), name)
  path = tmp_path / f"sample{extension}"
  _write_sample(path, reader)
  arrays = reader(str(path))
  first = arrays if isinstance(arrays, np.ndarray) else arrays[0]
  assert first.size > 0


def test_extensions_that_the_library_spells_are_in_the_table():
  spelt = {
    value
    for name, value in vars(files).items()
    if name.isupper() and isinstance(value, str) and value.startswith(".")
  }
  assert spelt <= set(_FORMATS["readers"])
  assert len(spelt) >= 5
