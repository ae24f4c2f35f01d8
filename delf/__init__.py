"""DELF, DELG and Detect-to-Retrieve: instance-level recognition in images.

Names are loaded when they are first used, so that `import delf` is cheap:
`from delf import feature_io` is the module `delf.python.feature_io`.
"""

import importlib
import sys

__version__ = "1.0.0"

# Public name -> module that holds it.
_MODULES = {
  "aggregation_config_pb2": "delf.protos.aggregation_config_pb2",
  "box_pb2": "delf.protos.box_pb2",
  "datum_pb2": "delf.protos.datum_pb2",
  "delf_config_pb2": "delf.protos.delf_config_pb2",
  "feature_pb2": "delf.protos.feature_pb2",
  "box_io": "delf.python.box_io",
  "datum_io": "delf.python.datum_io",
  "feature_aggregation_extractor": (
    "delf.python.feature_aggregation_extractor"
  ),
  "feature_aggregation_similarity": (
    "delf.python.feature_aggregation_similarity"
  ),
  "feature_extractor": "delf.python.feature_extractor",
  "feature_io": "delf.python.feature_io",
  "utils": "delf.python.utils",
  "whiten": "delf.python.whiten",
  "detector": "delf.python.examples.detector",
  "extractor": "delf.python.examples.extractor",
  "detect_to_retrieve": "delf.python.detect_to_retrieve",
  "training": "delf.python.training",
  "model": "delf.python.training.model",
  "datasets": "delf.python.datasets",
  "google_landmarks_dataset": ("delf.python.datasets.google_landmarks_dataset"),
  "revisited_op": "delf.python.datasets.revisited_op",
}


def _lazy(package, modules):
  """Return `__all__`, `__getattr__` and `__dir__` of a package.

  They give it modules, by public name, which are loaded when they are used.
  """

  def load(name):
    if name in modules:
      return importlib.import_module(modules[name])
    raise AttributeError(f"module {package!r} has no attribute {name!r}")

  def names():
    return sorted([*vars(sys.modules[package]), *modules])

  return sorted(modules), load, names


def _lazy_submodules(package, *names):
  """Return the same for a package and modules in it."""
  return _lazy(package, {name: f"{package}.{name}" for name in names})


__all__, __getattr__, __dir__ = _lazy(__name__, _MODULES)
