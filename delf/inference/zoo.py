"""Known models by name: their folders on this machine and their settings."""

import dataclasses
import difflib
import importlib.resources
import os
import pathlib
import re

from delf.base import errors
from delf.formats import configs, network_files
from delf.protos import delf_config_pb2

EXTRACTION = "extraction model"
DETECTOR = "detector"
CODEBOOK = "codebook"
WEIGHTS = "weights"

# Pattern of the file to load, somewhere below the folder of an artefact.
_LOADED_BY = {
  EXTRACTION: "saved_model.pb",
  DETECTOR: "saved_model.pb",
  CODEBOOK: "[!.]*.index",
  WEIGHTS: "[!.]*.h5",
}

EMBEDDED = "delf-compact"
EMBEDDED_DETECTOR = "delf-boxes"

_BUCKET = "https://storage.googleapis.com/delf/"

# The spellings of the published configurations: 0.3536 and 1.4142 in the older
# ones (DELF), the longer forms in the newer ones (DELG).
_DELF_SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
_DELG_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)


@dataclasses.dataclass(frozen=True)
class Artefact:
  """A model or file that is known by name."""

  name: str
  kind: str  # EXTRACTION, DETECTOR, CODEBOOK or WEIGHTS.
  purpose: str
  settings: dict | None = None  # Published fields of its DelfConfig.
  unavailable: str = ""  # Reason why it is unavailable, and an alternative.

  @property
  def url(self) -> str | None:
    """URL of the archive, or None if it cannot be downloaded."""
    if self.is_embedded or self.unavailable:
      return None
    return f"{_BUCKET}{self.name}.tar.gz"

  @property
  def is_embedded(self) -> bool:
    """Whether it is part of the package."""
    return self.name in (EMBEDDED, EMBEDDED_DETECTOR)

  @property
  def pattern(self) -> str:
    """Pattern of the file to load, somewhere below its folder."""
    return _LOADED_BY[self.kind]

  @property
  def alias(self) -> str:
    """The name without its date: `r50delg_gld` for `r50delg_gld_20200814`."""
    return re.sub(r"_\d{8}$", "", self.name)


def _settings(scales, largest, local=None, indices=None):
  settings = {
    "image_scales": scales,
    "max_image_size": largest,
    "use_local_features": local is not None,
    "use_global_features": indices is not None,
  }
  if local is not None:
    settings["delf_local_config"] = {"max_feature_num": 1000, **local}
  if indices is not None:
    chosen = {"use_pca": False, "image_scales_ind": indices}
    settings["delf_global_config"] = chosen
  return settings


_DELF_LOCAL = {
  "score_threshold": 100.0,
  "layer_name": "resnet_v1_50/block3",
  "use_pca": True,
  "pca_parameters": {"pca_dim": 40},
}
_DELF = _settings(_DELF_SCALES, -1, _DELF_LOCAL)


def _delg(name, threshold, data):
  local = {"score_threshold": threshold, "layer_name": "", "use_pca": False}
  backbone = "ResNet-101" if name.startswith("r101") else "ResNet-50"
  return Artefact(
    name,
    EXTRACTION,
    f"DELG, {backbone}, Google Landmarks {data}: local and global",
    _settings(_DELG_SCALES, 1024, local, (3, 4, 5)),
  )


def _codebook(photos, other, size):
  return Artefact(
    f"{photos.lower()}_codebook_{size}",
    CODEBOOK,
    f"{size} words of 128-D DELF features of {photos}, for use on {other}",
  )


_ARTEFACTS = (
  Artefact(EMBEDDED, EXTRACTION, "local and global, small, in the package"),
  Artefact(
    "delf_gld_20190411",
    EXTRACTION,
    "DELF of 2019, Google Landmarks v1: matching (PCA to 40), "
    "Detect-to-Retrieve (PCA to 128)",
    _DELF,
  ),
  Artefact(
    "delf_v1_20171026",
    EXTRACTION,
    "DELF of 2017, Landmarks Clean and Full: the model of the first paper",
    _DELF,
  ),
  _delg("r50delg_gld_20200814", 175.0, "v1"),
  _delg("r101delg_gld_20200814", 166.1, "v1"),
  _delg("r50delg_gldv2clean_20200914", 454.6, "v2 clean"),
  _delg("r101delg_gldv2clean_20200914", 357.48, "v2 clean"),
  Artefact(
    "rn101_af_gldv2clean_20200814",
    EXTRACTION,
    "ResNet-101 with ArcFace, Google Landmarks v2 clean: global only",
    _settings((0.70710677, 1.0, 1.4142135), 1024, indices=()),
  ),
  Artefact(
    "delg_gld_20200520",
    EXTRACTION,
    "DELG of May 2020, ResNet-50, Google Landmarks v1: retired",
    unavailable="retired by its authors; use r50delg_gld_20200814",
  ),
  Artefact(
    "google/delf/1",
    EXTRACTION,
    "DELF as a TensorFlow 1 Hub module (tfhub.dev/google/delf/1)",
    unavailable="a TensorFlow 1 Hub module, whose format and fixed PCA are not "
    "supported; use delf_gld_20190411",
  ),
  Artefact(
    EMBEDDED_DETECTOR, DETECTOR, "boxes of landmarks, small, in the package"
  ),
  Artefact(
    "d2r_frcnn_20190411",
    DETECTOR,
    "boxes of landmarks, Faster R-CNN: Detect-to-Retrieve",
  ),
  Artefact(
    "d2r_mnetssd_20190411",
    DETECTOR,
    "boxes of landmarks, MobileNet SSD: the lighter one",
  ),
  _codebook("RParis6k", "ROxford5k", 65536),
  _codebook("ROxford5k", "RParis6k", 65536),
  _codebook("RParis6k", "ROxford5k", 1024),
  _codebook("ROxford5k", "RParis6k", 1024),
  Artefact(
    "resnet50_imagenet_weights",
    WEIGHTS,
    "ResNet-50 of ImageNet without its top (Keras .h5): start of a training",
  ),
)

ARTEFACTS = {artefact.name: artefact for artefact in _ARTEFACTS}
ALIASES = {
  artefact.alias: artefact.name
  for artefact in _ARTEFACTS
  if artefact.alias != artefact.name
}


def cache_folder() -> pathlib.Path:
  """Return the folder of downloaded files.

  It is `$DELF_CACHE`, or else `delf` in `$XDG_CACHE_HOME`, in `~/.cache`, or on
  Windows in `%LOCALAPPDATA%`.
  """
  if os.environ.get("DELF_CACHE"):
    return pathlib.Path(os.environ["DELF_CACHE"]).expanduser()
  base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
  return pathlib.Path(base or "~/.cache").expanduser() / "delf"


def find(name: str | os.PathLike) -> Artefact | None:
  """Return the artefact with a name, with or without its date, or None."""
  name = os.fspath(name)
  return ARTEFACTS.get(ALIASES.get(name, name))


def artefact(name: str | os.PathLike) -> Artefact:
  """Return the artefact with a name; an InputError lists similar names."""
  known = find(name)
  if known is None:
    name = os.fspath(name)
    raise errors.InputError(f"no known model {name!r}{_similar_names(name)}")
  return known


def folder(known: Artefact) -> pathlib.Path:
  """Return the folder of an artefact; it may be missing."""
  if known.is_embedded:
    # TensorFlow needs a real folder: the package does not run from a zip file.
    package = importlib.resources.files("delf.embedded")
    return pathlib.Path(str(package)) / known.name
  return cache_folder() / "models" / known.name


def is_present(known: Artefact) -> bool:
  """Return whether an artefact is on this machine."""
  return folder(known).is_dir()


def resolve(name_or_path: str | os.PathLike) -> pathlib.Path:
  """Return the folder or file of a model, given its name or path.

  A path that does not exist may contain the name of a known model, such as
  `parameters/<name>/model/` in the published configurations. InputError if
  there is no such model, or it is not downloaded.
  """
  path = pathlib.Path(name_or_path)
  if os.fspath(name_or_path) and path.exists():
    return path
  known = find(name_or_path) or _split(path)[0]
  if known is None:
    raise errors.InputError(
      f"no model {os.fspath(name_or_path)!r}: neither a folder nor a known"
      f" model{_similar_names(path.name)}"
    )
  if known.kind not in (EXTRACTION, DETECTOR):
    raise errors.InputError(f"the {known.kind} {known.name} is not a model")
  return locate(known)


def locate(known: Artefact) -> pathlib.Path:
  """Return the path to load an artefact from; InputError if missing.

  It is a SavedModel folder, a codebook's checkpoint prefix, or a weights file.
  """
  _require_present(known)
  root = folder(known)
  # Its depth differs between the published archives.
  inside = sorted(root.rglob(known.pattern), key=lambda p: (len(p.parts), p))
  if not inside:
    raise errors.InputError(f"no {known.pattern} below the folder", path=root)
  if known.kind == WEIGHTS:
    return inside[0]
  if known.kind == CODEBOOK:
    return inside[0].with_suffix("")
  return inside[0].parent


def local_path(path: str | os.PathLike) -> pathlib.Path:
  """Return the local path of a file of a published configuration.

  `parameters/delf_gld_20190411/pca/mean.datum`, unless it exists, is this file
  of the downloaded artefact; InputError if it is not downloaded. Other paths
  are returned unchanged.
  """
  path = pathlib.Path(path)
  known, inside = _split(path)
  if path.exists() or known is None:
    return path
  _require_present(known)
  return folder(known).joinpath(*inside)


def _split(path):
  """Splits a path at the name of an artefact: artefact or None, and rest."""
  parts = path.parts
  for i in reversed(range(len(parts))):
    if parts[i] in ARTEFACTS:
      return ARTEFACTS[parts[i]], parts[i + 1 :]
  return None, ()


def _require_present(known):
  _require_available(known)
  if is_present(known):
    return
  advice = f"download it with `delf models download {known.name}`"
  if known.is_embedded:
    advice = "it is part of the package: install delf again"
  message = f"the {known.kind} {known.name} is not on this machine: {advice}"
  raise errors.InputError(message, path=folder(known))


def _require_available(known):
  if known.unavailable:
    raise errors.InputError(f"no {known.name}: {known.unavailable}")


def _similar_names(name):
  """Returns the end of a sentence: similar names, or where the list is."""
  names = [*ARTEFACTS, *ALIASES]
  bare = re.sub(r"[^a-z0-9]+", "", os.fspath(name).lower())
  by_bare = {re.sub(r"[^a-z0-9]+", "", each): each for each in names}
  similar = difflib.get_close_matches(bare, by_bare, n=4, cutoff=0.5)
  if not similar:
    return " (`delf models` lists them)"
  return f", such as {', '.join(by_bare[each] for each in similar)}"


def default_config(name: str) -> delf_config_pb2.DelfConfig:
  """Return the published settings of an extraction model."""
  known = artefact(name)
  if known.name == EMBEDDED:
    _require_present(known)
    config = configs.read_delf_config(folder(known) / "config.pbtxt")
    config.model_path = known.name
    return config
  _require_available(known)
  if known.settings is None:
    text = f"the {known.kind} {known.name} is not an extraction model"
    raise errors.InputError(text)
  config = delf_config_pb2.DelfConfig(model_path=known.name, **known.settings)
  local = config.delf_local_config
  if config.use_local_features and local.use_pca:
    pca, files = local.pca_parameters, folder(known) / "pca"
    pca.mean_path = os.fspath(files / "mean.datum")
    pca.projection_matrix_path = os.fspath(files / "pca_proj_mat.datum")
  return config


def choose(
  model: str | os.PathLike | None = None,
  config_path: str | os.PathLike | None = None,
) -> delf_config_pb2.DelfConfig:
  """Return the configuration of a model, a `.pbtxt` file, or neither.

  A model is a known name, or the path of a SavedModel folder or of a `.onnx` or
  `.tflite` file. With both, it replaces the model of the configuration file.
  Without a file, its own settings are used: `config.pbtxt` in its folder, those
  in its file, or the published ones. The default is the embedded model.
  """
  if config_path is not None:
    config = configs.read_delf_config(config_path)
    if model is not None:
      config.model_path = os.fspath(model)
    return config
  if model is None:
    return default_config(EMBEDDED)
  path, own = pathlib.Path(model), None
  if network_files.is_network(path) and path.is_file():
    if text := network_files.read_settings(path).config:
      own = configs.parse_delf_config(text, path)
  elif (path / "config.pbtxt").exists():
    own = configs.read_delf_config(path / "config.pbtxt")
  if own is not None:
    own.model_path = os.fspath(model)
    return own
  if find(model) is None and path.exists():
    message = "no settings: use --config, or add config.pbtxt to the folder"
    raise errors.InputError(message, path=model)
  return default_config(os.fspath(model))
