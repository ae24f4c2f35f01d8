"""JSON documents on standard output, for other programs to read."""

import json
import math


def print_json(document):
  """Prints a document that every JSON parser reads.

  Args:
    document: dict, list or plain value. NaN and infinity, which JSON does not
      have, become null.
  """
  print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value):
  if isinstance(value, dict):
    return {name: _finite(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(each) for each in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
