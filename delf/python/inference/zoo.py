"""Known models by name: where each is on this machine, with which settings."""

import difflib
import importlib.resources
import os
import pathlib
import re

from delf.protos import delf_config_pb2
from delf.python import config_io, errors
from delf.python.inference import zoo_table


def cache_folder():
  """Returns the folder of everything downloaded, `$DELF_CACHE` if it is set.

  Else it is `delf` in the user's folder of caches: `$XDG_CACHE_HOME` or
  `~/.cache`, on Windows `%LOCALAPPDATA%`.
  """
  if os.environ.get("DELF_CACHE"):
    return pathlib.Path(os.environ["DELF_CACHE"]).expanduser()
  base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
  return pathlib.Path(base or "~/.cache").expanduser() / "delf"


def models_folder():
  """Returns the folder that holds a folder per downloaded artefact."""
  return cache_folder() / "models"


def artefact(name):
  """Returns what is known by a name.

  Args:
    name: Name of an artefact, with or without its date.

  Returns:
    zoo_table.Artefact.

  Raises:
    InputError: If no artefact has the name; it lists near ones.
  """
  found = find(name)
  if found is None:
    raise errors.InputError(_names_like(name), repr(os.fspath(name)))
  return found


def find(name):
  """Returns the zoo_table.Artefact of a name, or None if there is none."""
  name = os.fspath(name)
  return zoo_table.ARTEFACTS.get(zoo_table.ALIASES.get(name, name))


def resolve(name_or_path):
  """Returns the folder of a SavedModel, or another file that is a model.

  Args:
    name_or_path: An existing path; else the name of a known model; else a path
      that ends in (a folder of) a known model, as `parameters/<name>/model/` of
      the published configurations, which is then looked for in the cache.

  Returns:
    pathlib.Path of what exists.

  Raises:
    InputError: If it is none of these, or a model that is not downloaded yet,
      or not a model; it says what to do.
  """
  path = pathlib.Path(name_or_path)
  if os.fspath(name_or_path) and path.exists():
    return path
  known = find(name_or_path) or _split(path)[0]
  if known is None:
    raise errors.InputError(
      f"a folder or {_names_like(path.name)}", repr(os.fspath(name_or_path))
    )
  if known.kind not in (zoo_table.EXTRACTION, zoo_table.DETECTOR):
    raise errors.InputError("a model", f"the {known.kind} {known.name}")
  return locate(known)


def folder(known):
  """Returns the folder of a zoo_table.Artefact, whether it is there or not."""
  if known.is_embedded:
    # A real folder, as TensorFlow needs: the package is not run from a zip.
    package = importlib.resources.files("delf.embedded")
    return pathlib.Path(str(package)) / known.name
  return models_folder() / known.name


def is_present(known):
  """Returns whether an artefact is on this machine."""
  return folder(known).is_dir()


def locate(known):
  """Returns the part of an artefact that is to be loaded.

  Args:
    known: zoo_table.Artefact.

  Returns:
    pathlib.Path: of a model its SavedModel folder, of a codebook the prefix of
    its checkpoint, of weights the file.

  Raises:
    InputError: If it is not on this machine, or not what it should be.
  """
  _require_present(known)
  root = folder(known)
  # The published archives differ in how deep it lies.
  found = sorted(root.rglob(known.wanted), key=lambda p: (len(p.parts), p))
  if not found:
    raise errors.InputError(f"{known.wanted} below it", "none", root)
  if known.kind == zoo_table.WEIGHTS:
    return found[0]
  if known.kind == zoo_table.CODEBOOK:
    return found[0].with_suffix("")
  return found[0].parent


def local_path(path):
  """Returns where a file is that a published configuration names.

  Args:
    path: Path of a file, for example `parameters/delf_gld_20190411/pca/
      mean.datum`.

  Returns:
    pathlib.Path: `path` if it exists or belongs to nothing known, else the same
    file of the downloaded artefact.

  Raises:
    InputError: If it belongs to an artefact that is not downloaded yet.
  """
  path = pathlib.Path(path)
  known, inside = _split(path)
  if path.exists() or known is None:
    return path
  _require_present(known)
  return folder(known).joinpath(*inside)


def default_config(name):
  """Returns the published settings of a model.

  Args:
    name: Name of an extraction model.

  Returns:
    DelfConfig, a new one; its `model_path` is the name.

  Raises:
    InputError: If the name is not that of an extraction model.
  """
  known = artefact(name)
  if known.name == zoo_table.EMBEDDED:
    _require_present(known)
    config = config_io.read_delf_config(folder(known) / "config.pbtxt")
    config.model_path = known.name
    return config
  if known.unavailable:
    raise errors.InputError("a model that can be had", _unavailable(known))
  if known.settings is None:
    raise errors.InputError("a model", f"the {known.kind} {known.name}")
  return _make_config(known)


def _make_config(known):
  settings = known.settings
  config = delf_config_pb2.DelfConfig(
    model_path=known.name,
    image_scales=settings.image_scales,
    max_image_size=settings.max_image_size,
    use_local_features=settings.score_threshold is not None,
    use_global_features=settings.global_scales is not None,
  )
  if config.use_local_features:
    local = config.delf_local_config
    local.max_feature_num = 1000
    local.score_threshold = settings.score_threshold
    local.layer_name = settings.layer_name
    local.use_pca = settings.pca_dim is not None
    if local.use_pca:
      pca = folder(known) / "pca"
      local.pca_parameters.pca_dim = settings.pca_dim
      local.pca_parameters.mean_path = os.fspath(pca / "mean.datum")
      local.pca_parameters.projection_matrix_path = os.fspath(
        pca / "pca_proj_mat.datum"
      )
  if config.use_global_features:
    config.delf_global_config.use_pca = False
    config.delf_global_config.image_scales_ind.extend(settings.global_scales)
  return config


def _split(path):
  """Returns the artefact that a path names a part of, and the parts inside."""
  parts = path.parts
  for i in reversed(range(len(parts))):
    if parts[i] in zoo_table.ARTEFACTS:
      return zoo_table.ARTEFACTS[parts[i]], parts[i + 1 :]
  return None, ()


def _require_present(known):
  if known.unavailable:
    raise errors.InputError("a model that can be had", _unavailable(known))
  if is_present(known):
    return
  if known.is_embedded:
    raise errors.InputError(
      f"the embedded {known.kind} {known.name}",
      "a package without it",
      folder(known),
    )
  raise errors.InputError(
    f"the {known.kind} {known.name} on this machine (`delf models download "
    f"{known.name}` gets it)",
    "nothing",
    folder(known),
  )


def _unavailable(known):
  return f"{known.name}, {known.unavailable}"


def _names_like(name):
  """Returns words that say which names there are, near ones if there are."""
  names = [*zoo_table.ARTEFACTS, *zoo_table.ALIASES]
  bare = re.sub(r"[^a-z0-9]+", "", os.fspath(name).lower())
  by_bare = {re.sub(r"[^a-z0-9]+", "", each): each for each in names}
  near = difflib.get_close_matches(bare, by_bare, n=4, cutoff=0.5)
  if not near:
    return "the name of a known model (`delf models` lists them)"
  return (
    f"the name of a known model, such as {', '.join(map(by_bare.get, near))}"
  )
