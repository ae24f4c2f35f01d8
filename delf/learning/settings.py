"""Settings that are flags of a script: dataclass fields with their flags."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from delf.base import errors

_KINDS = {
  bool: "boolean",
  int: "integer",
  float: "float",
  str: "string",
  tuple: "list",
}


def setting(
  default: Any,
  /,
  text: str | None = None,
  flag: str | None = None,
  *,
  kind: str | None = None,
  least: float | None = None,
  choices: Iterable[str] = (),
  **options,
):
  """Return a dataclass field with a range of values, and with a flag.

  Args:
    default: Default of both.
    text: Help of the flag; None: there is no flag.
    flag: Its name; None for that of the field.
    kind: Of the flag, such as "integer"; None for that of the default.
    least: Least value of a number.
    choices: Values of an enumeration.
    **options: Of the flag, such as `lower_bound`, or another `default`.
  """
  metadata = {"flag": flag, "least": least, "choices": tuple(choices)}
  if choices:
    kind, options = "enum", {"enum_values": metadata["choices"]}
  if text is not None:
    kind = kind or _KINDS[type(default)]
    metadata["define"] = getattr(flags, f"DEFINE_{kind}")
    metadata["options"] = {"default": default, "help": text} | options
  return dataclasses.field(default=default, metadata=metadata)


def _name(field):
  return field.metadata["flag"] or field.name


def _flagged(group):
  fields = dataclasses.fields(group)
  return [field for field in fields if "define" in field.metadata]


def define_flags(*groups: type) -> None:
  """Define the flags of dataclasses."""
  for group in groups:
    for field in _flagged(group):
      field.metadata["define"](_name(field), **field.metadata["options"])


def of_flags(group: type, values: Mapping[str, Any] | None = None):
  """Return a dataclass with the values of its flags.

  Args:
    group: The dataclass.
    values: Other values by name of a field; those of other fields are left out.
  """
  found = {
    field.name: flags.FLAGS[_name(field)].value for field in _flagged(group)
  }
  for name in found.keys() & (values or {}).keys():
    found[name] = values[name]
  return group(**found)


def check(*groups) -> None:
  """Raise InputError if a setting of these dataclasses is out of its range."""
  for group in groups:
    for field in dataclasses.fields(group):
      if not field.metadata:
        continue
      name, value = _name(field), getattr(group, field.name)
      least, choices = field.metadata["least"], field.metadata["choices"]
      if choices and value not in (field.default, *choices):
        expected = f"--{name} of {', '.join(choices)}"
        raise errors.InputError(expected, repr(value))
      if least is not None and not least <= value < math.inf:
        raise errors.InputError(f"--{name} of {least} or more", value)
      if type(field.default) is int and not float(value).is_integer():
        raise errors.InputError(f"a whole number as --{name}", value)
