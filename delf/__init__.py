"""DELF, DELG and Detect-to-Retrieve: instance-level recognition in images.

  import delf

  model = delf.load()
  match = delf.match("a.jpg", "b.jpg", model=model)
  index = delf.Index.build("photos", "photos.index")
  hits = index.search("a.jpg", top=10, verify=True)

Names are loaded when they are first used, so that `import delf` is quick. Those
of the original are here too: `from delf import feature_io`.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from delf.api.fitting import fit_codebook as fit_codebook
  from delf.api.fitting import fit_pca as fit_pca
  from delf.api.fitting import fit_whitening as fit_whitening
  from delf.api.index import Index as Index
  from delf.api.info import info as info
  from delf.api.model import Model as Model
  from delf.api.model import load as load
  from delf.api.model import match as match
  from delf.api.work import PhotoBoxes as PhotoBoxes
  from delf.api.work import detect as detect
  from delf.api.work import evaluate as evaluate
  from delf.api.work import export as export
  from delf.api.work import extract as extract
  from delf.api.work import train as train
  from delf.api.work import train_detector as train_detector
  from delf.base.errors import InputError as InputError
  from delf.embedded.samples import sample_photos as sample_photos
  from delf.formats.features import ImageFeatures as ImageFeatures
  from delf.formats.features import LocalFeatures as LocalFeatures
  from delf.matching.matcher import Match as Match
  from delf.search.searching import Hit as Hit

__version__ = "1.0.0"

# Public function or class -> module that defines it, as above.
_FACE = {
  "Hit": "delf.search.searching",
  "ImageFeatures": "delf.formats.features",
  "Index": "delf.api.index",
  "InputError": "delf.base.errors",
  "LocalFeatures": "delf.formats.features",
  "Match": "delf.matching.matcher",
  "Model": "delf.api.model",
  "PhotoBoxes": "delf.api.work",
  "detect": "delf.api.work",
  "evaluate": "delf.api.work",
  "export": "delf.api.work",
  "extract": "delf.api.work",
  "fit_codebook": "delf.api.fitting",
  "fit_pca": "delf.api.fitting",
  "fit_whitening": "delf.api.fitting",
  "info": "delf.api.info",
  "load": "delf.api.model",
  "match": "delf.api.model",
  "sample_photos": "delf.embedded.samples",
  "train": "delf.api.work",
  "train_detector": "delf.api.work",
}

# Public name of a module of the original -> the module.
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


def _lazy(package, modules, members=()):
  """Return `__all__`, `__getattr__` and `__dir__` of a package.

  They give it modules, and members of modules, by public name, which are loaded
  when they are used.
  """
  members = dict(members)

  def load(name):
    if name in modules:
      return importlib.import_module(modules[name])
    if name in members:
      return getattr(importlib.import_module(members[name]), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")

  def names():
    return sorted({*vars(sys.modules[package]), *modules, *members})

  return sorted([*modules, *members]), load, names


def _lazy_submodules(package, *names):
  """Return the same for a package and modules in it."""
  return _lazy(package, {name: f"{package}.{name}" for name in names})


__all__, __getattr__, __dir__ = _lazy(__name__, _MODULES, _FACE)
