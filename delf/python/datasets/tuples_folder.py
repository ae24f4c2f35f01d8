"""Writing one's own photos in the form of retrieval-SfM-120k."""

import hashlib
import os
import pathlib
import pickle

import numpy as np

from delf.python import errors, files
from delf.python.datasets import csv_file, tuples_dataset

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


def write(groups, name, data_root, validation_share=0.2, seed=0):
  """Writes photos, and which of them are pairs, as `TuplesDataset` reads them.

  Photos of a group are pairs in the order of their names, each with the next
  one; a group of one photo is there to be a negative. Also written is
  `<name>-whiten.pkl` with the pairs of the training, to learn a whitening.

  Args:
    groups: list of (name of the cluster, paths of photos that show one thing).
      Photos of clusters of one name are never negatives of each other.
    name: Name of the data set to be.
    data_root: Folder that gets `train/<name>/`.
    validation_share: Share of the clusters that are for validation, in [0, 1).
    seed: What the choice of these depends on.

  Returns:
    dict by mode of the numbers of its photos, clusters and pairs.

  Raises:
    InputError: If no group of a mode has two photos.
    OSError: If a photo cannot be read, or a file not be written.
  """
  folder = pathlib.Path(data_root, "train", name)
  clusters = sorted({cluster for cluster, _ in groups})
  order = np.random.default_rng(seed).permutation(len(clusters))
  held = {clusters[i] for i in order[: round(validation_share * len(order))]}
  numbers = {cluster: i for i, cluster in enumerate(clusters)}
  content, counts = {}, {}
  for mode in ("train", "val"):
    chosen = [g for g in groups if (g[0] in held) == (mode == "val")]
    content[mode] = _pairs(chosen, folder / "ims", numbers)
    counts[mode] = {
      "photos": len(content[mode]["cids"]),
      "clusters": len(set(content[mode]["cluster"])),
      "pairs": len(content[mode]["qidxs"]),
    }
    if not content[mode]["qidxs"] and (mode == "train" or held):
      raise errors.InputError(
        f"groups of two photos or more to {mode} with",
        f"{len(chosen)} groups of one",
      )
  for ending, found in (("", content), ("-whiten", content["train"])):
    files.write_bytes(folder / f"{name}{ending}.pkl", pickle.dumps(found))
  return counts


def _pairs(groups, folder, numbers):
  """Puts the photos of groups in their places; returns the dict of a mode."""
  found = {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}
  for cluster, paths in groups:
    first = len(found["cids"])
    for path in paths:
      found["cids"].append(_place(path, folder))
      found["cluster"].append(numbers[cluster])
    for i in range(first, len(found["cids"]) - 1):
      found["qidxs"] += [i, i + 1]
      found["pidxs"] += [i + 1, i]
  return found


def _place(path, folder):
  """Copies a photo to where its id, a digest of it, says; returns the id."""
  data = files.read_bytes(path)
  image_id = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()
  files.write_bytes(tuples_dataset.image_path(image_id, folder), data)
  return image_id
