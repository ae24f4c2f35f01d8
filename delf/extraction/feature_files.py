"""A folder of feature files, told from one of photos."""

import os
import pathlib

import numpy as np

from delf.base import arrays, errors, files, progress
from delf.python import datum_io, feature_io


def find(sources):
  """Returns what is in a folder of feature files.

  Args:
    sources: Folders, patterns, lists and images, as a user gave them.

  Returns:
    Set of names without extension, and set of extensions; or None unless there
    is one folder that has feature files and no image.
  """
  folder = pathlib.Path(sources[0])
  if len(sources) > 1 or not folder.is_dir():
    return None
  extensions = (files.DELF, files.DELG_LOCAL, files.DELG_GLOBAL)
  names, found = set(), set()
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
      if extension in extensions:
        names.add(f"{prefix}{stem}")
        found.add(extension)
  return (names, found) if names else None


def read_global(path):
  """Reads a global descriptor.

  Args:
    path: Path of a `.delg_global` file.

  Returns:
    [D] float32; [0] of an image that was too small.

  Raises:
    InputError: If it is not one, or not finite.
  """
  found = datum_io.ReadFromFile(path)
  if found.ndim != 1 or not np.isfinite(found).all():
    raise errors.InputError(
      "a descriptor of shape [D], finite", f"shape {list(found.shape)}", path
    )
  return found.astype(np.float32)


def read_local(path):
  """Reads local features whose values are finite.

  Args:
    path: Path of a `.delf` or `.delg_local` file.

  Returns:
    features.LocalFeatures.

  Raises:
    InputError: If it is not one, or not finite.
  """
  found = feature_io.read_local_features(path)
  for name in ("locations", "descriptors"):
    arrays.check_finite(getattr(found, name), name, path)
  return found


# Missing files that an error names.
_NAMED = 5


def paths(names, folder, extension):
  """Returns the paths of images' files.

  Args:
    names: Sequence of N str, names of images.
    folder: Folder that they are in.
    extension: Extension, with its point.

  Returns:
    list of N str.
  """
  return [os.path.join(folder, f"{name}{extension}") for name in names]


def require(names, folder, extension, what):
  """Returns the paths of images' files, all of which must be there.

  Args:
    names: Sequence of N str, names of images.
    folder: Folder that they are in.
    extension: Extension, with its point.
    what: Words for the images.

  Returns:
    list of N str.

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If a file is not there; it names the first few.
  """
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


def read_globals(wanted, what, dimension=None):
  """Reads global descriptors.

  Args:
    wanted: Sequence of N paths of `.delg_global` files.
    what: Words for the images.
    dimension: D that they must have, or None for any.

  Returns:
    list of N arrays, [D] float32, or [0] of an image that was too small for a
    descriptor.

  Raises:
    FileNotFoundError: If a file is not there.
    InputError: If a file is no descriptor, has another dimension than the
      others or a value that is not finite; it names the file.
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
    if descriptor.size:
      dimension = dimension or descriptor.size
      if descriptor.size != dimension:
        raise errors.InputError(
          f"{dimension} values as the other descriptors have",
          f"{descriptor.size}",
          path,
        )
    found.append(descriptor)
  return found


def whole_image_paths(names, folder, extension):
  """Returns the paths of the files of whole images.

  Where images have files for their regions, that of the whole image is
  `<name>_0`; it stands in where there is none called `<name>`.

  Args:
    names: Sequence of N str, names of images.
    folder: Folder that they are in.
    extension: Extension, with its point.

  Returns:
    list of N str.
  """
  whole = paths([f"{name}_0" for name in names], folder, extension)
  return [
    other if os.path.isfile(other) and not os.path.isfile(path) else path
    for path, other in zip(paths(names, folder, extension), whole, strict=True)
  ]
