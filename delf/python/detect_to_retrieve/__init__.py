"""Detect-to-Retrieve: scripts and names of the original."""

import importlib

_MODULES = ("aggregation_extraction", "boxes_and_features_extraction")

__all__ = list(_MODULES)


def __getattr__(name):
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return sorted([*globals(), *_MODULES])
