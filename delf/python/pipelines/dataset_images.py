"""The images of a data set with ground truth, as extraction takes them."""

import dataclasses
import os

from delf.python import errors
from delf.python.pipelines import cropping

QUERY = "query"
INDEX = "index"

_EXTENSION = ".jpg"


@dataclasses.dataclass(frozen=True)
class DatasetImages:
  """Images of one set; the lists are of one length.

  Attributes:
    paths: Paths of the image files.
    names: Their names in the data set, which are those of their outputs.
    crops: cropping.Crop of each query, None where there is no box, and of each
      index image None: all of it.
  """

  paths: list
  names: list
  crops: list


def read(dataset_file_path, image_set, images_dir, scale_limits):
  """Reads which images a data set has.

  Args:
    dataset_file_path: Path of the ground truth, `.mat` or `.pkl`.
    image_set: "query" or "index".
    images_dir: Folder with `<name>.jpg` of each; they need not be there.
    scale_limits: Whether size limits are scaled by the query's box; see
      `cropping.Crop`.

  Returns:
    DatasetImages.

  Raises:
    FileNotFoundError: If there is no such ground truth, or folder.
    InputError: If it is not ground truth, or has no images in the set.
  """
  from delf.python.datasets.revisited_op import dataset

  if not os.path.isdir(images_dir):
    raise FileNotFoundError(f"{images_dir}: expected a folder, found none")
  queries, index, ground_truth = dataset.ReadDatasetFile(dataset_file_path)
  names = list(map(str, queries if image_set == QUERY else index))
  if not names:
    raise errors.InputError(
      f"{image_set} images in the data set", "none", dataset_file_path
    )
  crops = [None] * len(names)
  if image_set == QUERY:
    crops = [_crop(truth, scale_limits) for truth in ground_truth]
  paths = [os.path.join(images_dir, f"{n}{_EXTENSION}") for n in names]
  return DatasetImages(paths, names, crops)


def _crop(truth, scale_limits):
  box = truth.get("bbx")
  return None if box is None else cropping.Crop(tuple(box), scale_limits)


def missing(dataset_file_path, images_dir):
  """Finds images that ground truth names and a folder does not have.

  Args:
    dataset_file_path: As in `read`.
    images_dir: As there.

  Returns:
    Number of images that are named, and list of the paths that are missing.

  Raises:
    FileNotFoundError: As in `read`.
    InputError: As there.
  """
  paths = set()
  for image_set in (QUERY, INDEX):
    paths.update(
      read(dataset_file_path, image_set, images_dir, scale_limits=True).paths
    )
  return len(paths), sorted(p for p in paths if not os.path.isfile(p))
