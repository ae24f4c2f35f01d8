"""retrieval-SfM-120k (Radenovic et al., arXiv:1711.02512) to train with."""

from delf.python.datasets import tuples_dataset
from delf.python.datasets.utils import default_loader
from delf.records import tuples

NAME = "retrieval-SfM-120k"


def CreateDataset(
  mode,
  data_root,
  imsize=None,
  num_negatives=5,
  num_queries=2000,
  pool_size=20000,
  eccv2020=False,
  loader=default_loader,
  **options,
):
  """Makes the data set of tuples.

  Args:
    mode: "train" or "val".
    data_root: Folder with `train/retrieval-SfM-120k/retrieval-SfM-120k.pkl`
      and `ims/` beside that file.
    imsize: Largest side of an image, in pixels; None leaves it.
    num_negatives: Negatives of a query.
    num_queries: Queries of an epoch; infinity for all.
    pool_size: Images that negatives are looked for in; infinity for all.
    eccv2020: Whether to take the validation set of 2020,
      `retrieval-SfM-120k-val-eccv2020.pkl`.
    loader: Function that loads an image.
    **options: `seed` and `workers` of TuplesDataset.

  Returns:
    tuples_dataset.TuplesDataset.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If the mode or a number cannot be, or the file is not one.
  """
  return tuples_dataset.TuplesDataset(
    NAME,
    mode,
    data_root,
    imsize,
    num_negatives,
    num_queries,
    pool_size,
    loader,
    eccv2020,
    **options,
  )


def id2filename(image_id, prefix):
  """Returns the path of an image.

  Args:
    image_id: Its id, whose last characters name its folders.
    prefix: Folder of all images, or None or "" for a path below it.

  Returns:
    str, `<prefix>/<last two>/<two before>/<two before>/<image_id>`.
  """
  return tuples.image_path(image_id, prefix)
