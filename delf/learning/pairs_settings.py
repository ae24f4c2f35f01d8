"""What a run of global training is told: data, network, learning, reporting."""

import ast
import dataclasses
import json
import math
import operator
import pathlib

from delf.base import errors, files
from delf.learning import pairs
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training import global_features_utils

LOSSES = ("contrastive", "triplet")
OPTIMIZERS = ("sgd", "adam")
WHITENINGS = ("retrieval-SfM-30k", "retrieval-SfM-120k")

# File beside the checkpoints that says what they were made with.
FILE = "settings.json"

# What may change from a run to the one that goes on from it.
_FREE = {"data_root", "workers", "epochs", "print_every", "save_every"}


@dataclasses.dataclass(frozen=True)
class Data:
  """Where photos come from.

  Attributes:
    data_root: Folder of data sets; see `tuples_dataset.TuplesDataset`.
    image_size: Largest side of a photo, in pixels.
    negatives: Negatives of a query.
    queries: Queries of an epoch.
    pool: Photos that negatives are looked for in.
    validation: Whether there is validation.
    validation_2020: Whether on the set of 2020.
    tests: Names of the Revisited sets that are searched now and then.
    scales: Scales that photos of searches are described at.
    whitening: One of WHITENINGS that a whitening is learned on in the end.
    workers: Threads that load photos.
  """

  data_root: str = "data"
  image_size: int = 1024
  negatives: int = 5
  queries: int = 2000
  pool: int = 20000
  validation: bool = True
  validation_2020: bool = False
  tests: tuple = ("roxford5k", "rparis6k")
  scales: tuple = (1.0,)
  whitening: str | None = None
  workers: int = 8


@dataclasses.dataclass(frozen=True)
class Network:
  """What is trained; see `global_model.GlobalFeatureNet`."""

  architecture: str = "ResNet101"
  pooling: str = "gem"
  whitening: bool = False
  pretrained: bool = True


@dataclasses.dataclass(frozen=True)
class Learning:
  """How it is trained.

  Attributes:
    loss: One of LOSSES.
    margin: Its margin.
    optimizer: One of OPTIMIZERS.
    rate: Learning rate of the first step.
    momentum: Of SGD.
    weight_decay: Share of each weight that an update takes away.
    batch: Queries of a batch; gradients are summed over it.
    update_every: Batches whose gradients are summed to an update.
    epochs: Epochs in all.
    seed: What random weights and the draws of tuples depend on.
  """

  loss: str = "contrastive"
  margin: float = 0.7
  optimizer: str = "adam"
  rate: float = 1e-6
  momentum: float = 0.9
  weight_decay: float = 1e-6
  batch: int = 5
  update_every: int = 1
  epochs: int = 100
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
  """All of it.

  Attributes:
    directory: Folder that the run's own folder is made in.
    data: Data.
    network: Network.
    learning: Learning.
    test_every: Epochs from one validation, and search, to the next.
    print_every: Batches from one report of the loss to the next.
    save_every: Batches from one saving to the next; 0 for after epochs alone.
    resume: Whether a run that is there goes on.
  """

  directory: str = "data"
  data: Data = Data()
  network: Network = Network()
  learning: Learning = Learning()
  test_every: int = 5
  print_every: int = 10
  save_every: int = 100
  resume: bool = False

  def check(self):
    """Raises InputError if a value cannot be."""
    data, learning = self.data, self.learning
    for name, value, least in (
      ("--image_size", data.image_size, 1),
      ("--neg_num", data.negatives, 1 if learning.loss == "triplet" else 0),
      ("--query_size", data.queries, 1),
      ("--pool_size", data.pool, 1),
      ("--workers", data.workers, 0),
      ("--batch_size", learning.batch, 1),
      ("--update_every", learning.update_every, 1),
      ("--epochs", learning.epochs, 1),
      ("--test_freq", self.test_every, 1),
      ("--print_freq", self.print_every, 1),
      ("--save_every", self.save_every, 0),
      ("--loss_margin", learning.margin, 0),
      ("--lr", learning.rate, 0),
      ("--momentum", learning.momentum, 0),
      ("--weight_decay", learning.weight_decay, 0),
    ):
      if not least <= value < math.inf:
        raise errors.InputError(f"{name} of {least} or more", value)
    for name, value, known in (
      ("--loss", learning.loss, LOSSES),
      ("--optimizer", learning.optimizer, OPTIMIZERS),
      ("--precompute_whitening", data.whitening, (None, *WHITENINGS)),
      *(("--test_datasets", t, revisited.DATASET_NAMES) for t in data.tests),
    ):
      if value not in known:
        words = ", ".join(str(each) for each in known if each)
        raise errors.InputError(f"{name} of {words}", repr(value))

  def open_folder(self):
    """Makes the run's folder, or finds that of a run to go on with.

    Returns:
      pathlib.Path.

    Raises:
      InputError: If there is a run and none is to go on, or one of other
        settings.
    """
    folder = pathlib.Path(
      global_features_utils.create_model_directory(
        sfm120k.NAME,
        self.network.architecture,
        self.network.pooling,
        self.network.whitening,
        self.network.pretrained,
        self.learning.loss,
        self.learning.margin,
        self.learning.optimizer,
        self.learning.rate,
        self.learning.weight_decay,
        self.data.negatives,
        self.data.queries,
        self.data.pool,
        self.learning.batch,
        self.learning.update_every,
        self.data.image_size,
        self.directory,
      )
    )
    path = folder / FILE
    if (folder / pairs.FILE).exists():
      if not self.resume:
        raise errors.InputError(
          "--resume, to go on with the run that is there, or a new folder",
          "neither",
          folder,
        )
      self._require_same(read(path), path)
    text = json.dumps(dataclasses.asdict(self), indent=2)
    files.write_bytes(path, text.encode())
    return folder

  def _require_same(self, stored, path):
    """Raises InputError if a run was made with what changes its result."""
    for part in ("data", "network", "learning"):
      mine = dataclasses.asdict(getattr(self, part))
      for name, value in mine.items():
        other = getattr(getattr(stored, part), name)
        if name not in _FREE and value != other:
          raise errors.InputError(
            f"a run of {part} with {name} {value}, as asked for",
            f"one with {other}",
            path,
          )


def read(path):
  """Reads the settings of a run.

  Args:
    path: Path of its `settings.json`.

  Returns:
    Settings.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another one.
  """
  try:
    found = json.loads(files.read_bytes(path))
    parts = {"data": Data, "network": Network, "learning": Learning}
    for name, kind in parts.items():
      found[name] = kind(**found[name])
    lists = {k: tuple(getattr(found["data"], k)) for k in ("tests", "scales")}
    found["data"] = dataclasses.replace(found["data"], **lists)
    return Settings(**found)
  except (ValueError, TypeError, KeyError) as error:
    raise errors.InputError(
      "settings of a run of global training",
      f"something else ({errors.one_line(error)})",
      path,
    ) from None


_ARITHMETIC = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.Pow: operator.pow,
  ast.USub: operator.neg,
}


def parse(text):
  """Reads a list of scales.

  Args:
    text: Such as "[1, 2**(1/2), 1/2**(1/2)]": numbers and arithmetic.

  Returns:
    tuple of float over 0.

  Raises:
    InputError: If it is something else.
  """
  try:
    node = ast.parse(text, mode="eval").body
    scales = tuple(_value(element) for element in node.elts)
    if scales and all(0 < scale < float("inf") for scale in scales):
      return scales
  except (AttributeError, ArithmeticError, SyntaxError, TypeError, ValueError):
    pass
  raise errors.InputError(
    "--multiscale as a list of scales over 0, such as [1, 1/2]", repr(text)
  )


def _value(node):
  """Returns the float of an expression; others raise TypeError or the like."""
  if isinstance(node, ast.BinOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.left), _value(node.right))
  if isinstance(node, ast.UnaryOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.operand))
  return float(node.value)
