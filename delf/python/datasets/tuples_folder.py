"""Writing one's own photos in the form of retrieval-SfM-120k."""

import dataclasses
import hashlib
import os
import pathlib
import pickle

import numpy as np

from delf.python import errors, files, progress, utils
from delf.python.datasets import csv_file, tuples_paths

_DIGEST_BYTES = 16


def groups_of_folder(folder):
  """Finds photos by the folder that they are in: each is one object or place.

  Args:
    folder: Folder of folders of photos.

  Returns:
    list of (name of the cluster, list of paths).

  Raises:
    FileNotFoundError: If there is no such folder.
    InputError: If there are no photos in it.
  """
  groups = {}
  for path in files.find_images(folder):
    groups.setdefault(os.path.dirname(path), []).append(path)
  return sorted(groups.items())


def groups_of_csv(path, images):
  """Reads photos and what they show from a CSV file.

  Args:
    path: Path of a file with the columns `url` (path below `images`) and
      `landmark_id`.
    images: Folder of the photos.

  Returns:
    list of (name of the cluster, list of paths).

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If a column is missing.
  """
  rows = csv_file.rows(path, header=True)
  _, columns = next(rows)
  try:
    url, landmark = columns.index("url"), columns.index("landmark_id")
  except ValueError:
    raise errors.InputError(
      "the columns url and landmark_id", ", ".join(columns) or "none", path
    ) from None
  groups = {}
  for line, row in rows:
    if len(row) <= max(url, landmark):
      raise errors.InputError(
        f"{len(columns)} columns", f"{len(row)}", f"{path}, line {line}"
      )
    photo = os.path.join(images, row[url])
    groups.setdefault(row[landmark], []).append(photo)
  return sorted(groups.items())


@dataclasses.dataclass(frozen=True)
class Options:
  """How the data set is made.

  Attributes:
    validation_share: Share of the clusters that are for validation, in [0, 1).
    seed: What the choice of these depends on.
    overwrite: Whether a data set of this name that is there is replaced.
  """

  validation_share: float = 0.2
  seed: int = 0
  overwrite: bool = False


def write(groups, name, data_root, options=Options(), say=print):
  """Writes photos, and which of them are pairs, as `TuplesDataset` reads them.

  Photos of a group are pairs in the order of their names, each with the next
  one; a group of one photo is there to be a negative. Also written is
  `<name>-whiten.pkl` with the pairs of the training, to learn a whitening.

  Args:
    groups: list of (name of the cluster, paths of photos that show one thing).
      Photos of clusters of one name are never negatives of each other.
    name: Name of the data set to be.
    data_root: Folder that gets `train/<name>/`.
    options: Options.
    say: Function of a line, for each photo that cannot be read and is left out.

  Returns:
    dict by mode of the numbers of its photos, clusters and pairs.

  Raises:
    InputError: If there is such a data set, or no group of a mode has two
      photos.
    OSError: If a file cannot be written.
  """
  folder = pathlib.Path(data_root, "train", name)
  database = folder / f"{name}.pkl"
  if database.exists() and not options.overwrite:
    raise errors.InputError(
      "a data_root without a data set of this name, or --overwrite",
      f"one with {database}",
      data_root,
    )
  clusters = sorted({cluster for cluster, _ in groups})
  order = np.random.default_rng(options.seed).permutation(len(clusters))
  number = round(options.validation_share * len(order))
  held = {clusters[i] for i in order[:number]}
  numbers = {cluster: i for i, cluster in enumerate(clusters)}
  content, counts = {}, {}
  total = sum(len(paths) for _, paths in groups)
  with progress.count("copying photos", total) as bar:
    places = _Places(folder / "ims", bar, say)
    for mode in ("train", "val"):
      chosen = [g for g in groups if (g[0] in held) == (mode == "val")]
      content[mode] = _pairs(chosen, places, numbers)
      if not content[mode]["qidxs"] and (mode == "train" or held):
        raise errors.InputError(
          f"groups of two photos or more to {mode} with",
          f"{len(chosen)} groups of one",
        )
      counts[mode] = {
        "photos": len(content[mode]["cids"]),
        "clusters": len(set(content[mode]["cluster"])),
        "pairs": len(content[mode]["qidxs"]),
      }
  whiten = folder / f"{name}-whiten.pkl"
  for path, found in ((whiten, content["train"]), (database, content)):
    files.write_bytes(path, pickle.dumps(found))
  return counts


def _pairs(groups, places, numbers):
  """Puts the photos of groups in their places; returns the dict of a mode."""
  found = {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}
  for cluster, paths in groups:
    first = len(found["cids"])
    for image_id in filter(None, map(places.copy, paths)):
      found["cids"].append(image_id)
      found["cluster"].append(numbers[cluster])
    for i in range(first, len(found["cids"]) - 1):
      found["qidxs"] += [i, i + 1]
      found["pidxs"] += [i + 1, i]
  return found


class _Places:
  """Puts photos where their ids, digests of them, say."""

  def __init__(self, folder, bar, say):
    self._folder, self._bar, self._say = folder, bar, say

  def copy(self, path):
    """Copies a photo, if it is not there; returns its id, or None if bad."""
    try:
      utils.image_size(path)
      data = files.read_bytes(path)
    except (errors.InputError, OSError) as error:
      self._say(f"{errors.one_line(error)}; left out")
      return None
    finally:
      self._bar.update(1)
    image_id = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
    target = pathlib.Path(tuples_paths.image_path(image_id, self._folder))
    if not target.exists():
      files.write_bytes(target, data)
    return image_id
