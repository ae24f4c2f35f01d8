"""Folders of feature files: which they have, and reading them."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from delf.base import arrays, errors, files, progress
from delf.formats import features
from delf.python import datum_io, feature_io

# Missing files that an error names.
_NAMED = 5


def find(
  sources: Sequence[str | os.PathLike],
) -> tuple[set[str], set[str]] | None:
  """Return the names and extensions of feature files in a folder.

  None unless there is one source, a folder of feature files without images.
  """
  folder = pathlib.Path(sources[0])
  if len(sources) > 1 or not folder.is_dir():
    return None
  names, extensions = set(), set()
  # Strings: a Path of each file takes several times as long.
  for parent, _, inside in os.walk(folder):
    below = pathlib.Path(parent).relative_to(folder).as_posix()
    prefix = "" if below == "." else f"{below}/"
    for file in inside:
      stem, extension = os.path.splitext(file)
      if file.startswith("."):
        continue
      if extension.lower() in files.IMAGES:
        return None
      if extension in (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL):
        names.add(f"{prefix}{stem}")
        extensions.add(extension)
  return (names, extensions) if names else None


def read_local(path: str | os.PathLike) -> features.LocalFeatures:
  """Read a `.delf` or `.delg_local` file; raise InputError if not finite."""
  found = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    arrays.check_finite(getattr(found, name), name, path)
  return found


def read_global(path: str | os.PathLike) -> np.ndarray:
  """Read a `.delg_global` file, finite: [D] float32, [0] of a tiny image."""
  found = datum_io.ReadFromFile(path)
  if found.ndim != 1 or not np.isfinite(found).all():
    raise errors.InputError(
      "a descriptor of shape [D], finite", f"shape {list(found.shape)}", path
    )
  return found.astype(np.float32)


def read_globals(
  wanted: Sequence[str], what: str, dimension: int | None = None
) -> list[np.ndarray]:
  """Read `.delg_global` files of images (`what` they are), as `read_global`.

  All but those of tiny images must have one dimension, the given one if any.
  """
  found = []
  for path in progress.track(wanted, f"reading {what}"):
    descriptor = datum_io.ReadFromFile(path)
    if descriptor.ndim != 1 or descriptor.dtype != np.float32:
      raise errors.InputError(
        "a global descriptor, float32 [D]",
        f"{descriptor.dtype} {list(descriptor.shape)}",
        path,
      )
    arrays.check_finite(descriptor, "descriptor", path)
    dimension = dimension or descriptor.size
    if descriptor.size not in (0, dimension):
      raise errors.InputError(
        f"{dimension} values as the other descriptors have",
        f"{descriptor.size}",
        path,
      )
    found.append(descriptor)
  return found


def paths(
  names: Sequence[str], folder: str | os.PathLike, extension: str
) -> list[str]:
  """Return the paths of images' files."""
  return [os.path.join(folder, f"{name}{extension}") for name in names]


def require(
  names: Sequence[str], folder: str | os.PathLike, extension: str, what: str
) -> list[str]:
  """Return the paths of images' files; raise InputError if some are missing."""
  if not os.path.isdir(folder):
    raise FileNotFoundError(f"{folder}: expected a folder, found none")
  wanted = paths(names, folder, extension)
  missing = [path for path in wanted if not os.path.isfile(path)]
  if missing:
    named = ", ".join(os.path.basename(path) for path in missing[:_NAMED])
    more = ", ..." if len(missing) > _NAMED else ""
    raise errors.InputError(
      f"a {extension} file of each of {len(names)} {what}",
      f"none of {len(missing)} ({named}{more})",
      folder,
    )
  return wanted


def whole_image_paths(
  names: Sequence[str], folder: str | os.PathLike, extension: str
) -> list[str]:
  """Return the files of whole images: `<name>`, or `<name>_0` of regions."""
  whole = paths([f"{name}_0" for name in names], folder, extension)
  return [
    other if os.path.isfile(other) and not os.path.isfile(path) else path
    for path, other in zip(paths(names, folder, extension), whole, strict=True)
  ]
