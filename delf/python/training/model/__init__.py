"""The models: backbones, DELF and DELG, and the graphs they are exported as."""

import importlib

_MODULES = ("delf_model", "delg_model", "export_model_utils", "resnet50")

__all__ = list(_MODULES)


def __getattr__(name):
  if name in _MODULES:
    return importlib.import_module(f"{__name__}.{name}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
  return sorted([*globals(), *_MODULES])
