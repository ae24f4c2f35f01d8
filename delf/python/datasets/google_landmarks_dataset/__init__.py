"""Google Landmarks: its files, metrics, and submissions to its contests."""

import importlib

_MODULES = ("dataset_file_io", "googlelandmarks", "metrics")

__all__ = list(_MODULES)


def __getattr__(name):
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return sorted([*globals(), *_MODULES])
