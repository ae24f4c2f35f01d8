"""Settings of training on tuples of photos, and the flags of its script."""

import ast
import dataclasses
import json
import operator
import os
import pathlib

from absl import flags

from delf.base import errors, files
from delf.learning import delg_settings
from delf.learning.delg_settings import setting
from delf.networks import backbones
from delf.python.datasets.revisited_op import dataset as revisited
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training import global_features_utils

FLAGS = flags.FLAGS

LOSSES = ("contrastive", "triplet")
OPTIMIZERS = ("sgd", "adam")
_WHITENINGS = ("retrieval-SfM-30k", sfm120k.NAME)

# Files of a run: all that the rest of it depends on, and its settings.
CHECKPOINT, FILE = "checkpoint.npz", "settings.json"

# What may change from a run to the one that resumes it.
_FREE = {"data_root", "workers", "epochs", "print_every", "save_every"}


@dataclasses.dataclass(frozen=True)
class Data:
  """Photos to train on, to validate and search with, and to whiten with."""

  data_root: str = setting(
    "data",
    f"folder with train/{sfm120k.NAME}/, and gnd_<name>.pkl and photos of "
    "the data sets that are searched",
  )
  image_size: int = setting(1024, "largest side of a photo, pixels", least=1)
  negatives: int = setting(5, "negatives of a query", "neg_num", least=0)
  queries: int = setting(2000, "queries of an epoch", "query_size", least=1)
  pool: int = setting(
    20000, "photos that negatives are looked for in", "pool_size", least=1
  )
  validation: bool = setting(True, "whether there is validation", "val")
  validation_2020: bool = setting(
    False, "whether validation is on the set of 2020", "val_eccv2020"
  )
  tests: tuple[str, ...] = setting(
    ("roxford5k", "rparis6k"),
    "data sets that are searched now and then, of roxford5k and rparis6k; "
    "empty for none",
    "test_datasets",
    default="roxford5k,rparis6k",
  )
  scales: tuple[float, ...] = setting(
    (1.0,),
    "scales that photos of searches are described at, such as "
    "[1, 2**(1/2), 1/2**(1/2)]",
    "multiscale",
    kind="string",
    default="[1.]",
  )
  whitening: str | None = setting(
    None,
    "data set that a whitening is learned on in the end",
    "precompute_whitening",
    choices=_WHITENINGS,
  )
  workers: int = setting(8, "threads that load photos", least=0)


@dataclasses.dataclass(frozen=True)
class Network:
  """The network; see `global_model.GlobalFeatureNet`."""

  architecture: str = setting(
    "ResNet101", "network of Keras", "arch", choices=backbones.ARCHITECTURES
  )
  pooling: str = setting(
    "gem", "pooling", "pool", choices=("mac", "spoc", "gem")
  )
  whitening: bool = setting(
    False, "whether the network ends in a whitening layer"
  )
  pretrained: bool = setting(
    True,
    "whether it starts with ImageNet weights, of <arch>*notop*.h5 in data_root "
    "or of Keras' site",
  )


@dataclasses.dataclass(frozen=True)
class Learning:
  """Loss, optimizer and epochs; gradients are summed over a batch."""

  loss: str = setting("contrastive", "loss of a tuple", choices=LOSSES)
  margin: float = setting(0.7, "its margin", "loss_margin", least=0)
  optimizer: str = setting("adam", "optimizer", choices=OPTIMIZERS)
  rate: float = setting(1e-6, "learning rate of the first step", "lr", least=0)
  momentum: float = setting(0.9, "momentum of sgd", least=0)
  weight_decay: float = setting(
    1e-6, "share of each weight that an update takes away", least=0
  )
  batch: int = setting(5, "queries of a batch", "batch_size", least=1)
  update_every: int = setting(1, "batches of an update", least=1)
  epochs: int = setting(100, "epochs in all", least=1)
  seed: int = setting(0, "of random weights and of the tuples' draws")


_GROUPS = {"data": Data, "network": Network, "learning": Learning}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a run, by group, and what it writes when."""

  directory: str = setting("data", "folder of the run's own folder")
  data: Data = Data()
  network: Network = Network()
  learning: Learning = Learning()
  test_every: int = setting(
    5, "epochs from one validation and search to the next", "test_freq", least=1
  )
  print_every: int = setting(
    10, "batches between two reports", "print_freq", least=1
  )
  save_every: int = setting(
    100, "batches between two savings; 0: after epochs alone", least=0
  )
  resume: bool = setting(False, "whether a run that is there goes on")

  def check(self) -> None:
    """Raise InputError if a setting is out of its range."""
    delg_settings.check(self, self.data, self.network, self.learning)
    if self.learning.loss == "triplet" and self.data.negatives < 1:
      raise errors.InputError("--neg_num of 1 or more", self.data.negatives)
    for name in self.data.tests:
      if name not in revisited.DATASET_NAMES:
        expected = f"--test_datasets of {', '.join(revisited.DATASET_NAMES)}"
        raise errors.InputError(expected, repr(name))

  def open_folder(self) -> pathlib.Path:
    """Make the folder of the run, or find that of a run to resume.

    Raises InputError if there is a run that is not to be resumed, or one of
    other settings.
    """
    data, learning = self.data, self.learning
    folder = pathlib.Path(
      global_features_utils.create_model_directory(
        sfm120k.NAME,
        *dataclasses.astuple(self.network),
        learning.loss,
        learning.margin,
        learning.optimizer,
        learning.rate,
        learning.weight_decay,
        data.negatives,
        data.queries,
        data.pool,
        learning.batch,
        learning.update_every,
        data.image_size,
        self.directory,
      )
    )
    path = folder / FILE
    if (folder / CHECKPOINT).exists():
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
    """Refuse a run whose settings would give another result."""
    for part in _GROUPS:
      for name, value in vars(getattr(self, part)).items():
        other = getattr(getattr(stored, part), name)
        if name not in _FREE and value != other:
          raise errors.InputError(
            f"a run of {part} with {name} {value}, as asked for",
            f"one with {other}",
            path,
          )


def define_flags() -> None:
  """Define the flags of the settings."""
  for group in (Settings, *_GROUPS.values()):
    delg_settings.define_group(group)


def settings_of_flags() -> Settings:
  """Return the settings that the flags say."""
  values = {
    "tests": tuple(filter(None, FLAGS.test_datasets)),
    "scales": parse_scales(FLAGS.multiscale),
  }
  if FLAGS.debug and FLAGS["print_freq"].using_default_value:
    values["print_every"] = 1
  return dataclasses.replace(
    delg_settings.of_flags(Settings, values),
    data=delg_settings.of_flags(Data, values),
    network=delg_settings.of_flags(Network),
    learning=delg_settings.of_flags(Learning),
  )


def read(path: str | os.PathLike) -> Settings:
  """Read the `settings.json` of a run; InputError if it is another file."""
  try:
    stored = json.loads(files.read_bytes(path))
    for name, kind in _GROUPS.items():
      stored[name] = kind(**stored[name])
    data = stored["data"]
    stored["data"] = dataclasses.replace(
      data, tests=tuple(data.tests), scales=tuple(data.scales)
    )
    return Settings(**stored)
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


def parse_scales(text: str) -> tuple[float, ...]:
  """Read a list of scales over 0, such as "[1, 2**(1/2), 1/2**(1/2)]".

  Raises InputError if it is anything but numbers and arithmetic.
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
  """Return the value of an expression; others raise TypeError or the like."""
  if isinstance(node, ast.BinOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.left), _value(node.right))
  if isinstance(node, ast.UnaryOp):
    return _ARITHMETIC.get(type(node.op))(_value(node.operand))
  return float(node.value)
