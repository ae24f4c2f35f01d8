"""Training data of retrieval-SfM-120k (Radenovic et al., arXiv:1711.02512)."""

from collections.abc import Callable
from typing import Any

from delf.python.datasets import tuples_dataset
from delf.python.datasets.utils import default_loader
from delf.records import tuples

NAME = "retrieval-SfM-120k"


def CreateDataset(  # noqa: PLR0913
  mode: str,
  data_root: str,
  imsize: int | None = None,
  num_negatives: int = 5,
  num_queries: float = 2000,
  pool_size: float = 20000,
  eccv2020: bool = False,
  loader: Callable = default_loader,
  **options: Any,
) -> tuples_dataset.TuplesDataset:
  """Create the data set of tuples; see `TuplesDataset`.

  With `eccv2020` it is the validation set of 2020.
  """
  sizes = imsize, num_negatives, num_queries, pool_size
  return tuples_dataset.TuplesDataset(
    NAME, mode, data_root, *sizes, loader, eccv2020, **options
  )


def id2filename(image_id: str, prefix: str | None) -> str:
  """Return `<prefix>/<last two>/<two before>/<two before>/<image_id>`."""
  return tuples.image_path(image_id, prefix)
