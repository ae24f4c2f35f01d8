"""Settings of training on tuples of photos, and the flags of its script."""

import ast
import dataclasses
import json
import operator
import os
import pathlib
from collections.abc import Callable
from typing import Any

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

# Files of a run: its state, and its settings.
CHECKPOINT, FILE = "checkpoint.npz", "settings.json"

# Settings that may change when a run is resumed.
_FREE = {"data_root", "workers", "epochs", "print_every", "save_every"}


@dataclasses.dataclass(frozen=True)
class Data:
  """Photos for training, validation, searches and whitening."""

  data_root: str = setting(
    "data",
    f"folder with train/{sfm120k.NAME}/, and with gnd_<name>.pkl and photos of "
    "the data sets to search",
  )
  image_size: int = setting(1024, "largest side of a photo, pixels", least=1)
  negatives: int = setting(5, "negatives of a query", "neg_num", least=0)
  queries: int = setting(2000, "queries of an epoch", "query_size", least=1)
  pool: int = setting(
    20000, "photos among which negatives are searched", "pool_size", least=1
  )
  validation: bool = setting(True, "whether to validate", "val")
  validation_2020: bool = setting(
    False, "whether to validate on the set of 2020", "val_eccv2020"
  )
  tests: tuple[str, ...] = setting(
    ("roxford5k", "rparis6k"),
    "data sets to search during training: roxford5k, rparis6k, both or none",
    "test_datasets",
    default="roxford5k,rparis6k",
  )
  scales: tuple[float, ...] = setting(
    (1.0,),
    "scales of descriptors for searches, such as [1, 2**(1/2), 1/2**(1/2)]",
    "multiscale",
    kind="string",
    default="[1.]",
  )
  whitening: str | None = setting(
    None,
    "data set to learn a whitening on after training",
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
    False, "whether to add a whitening layer at the end of the network"
  )
  pretrained: bool = setting(
    True,
    "whether to start with ImageNet weights, from <arch>*notop*.h5 in "
    "data_root or from Keras' site",
  )


@dataclasses.dataclass(frozen=True)
class Learning:
  """Loss, optimizer and epochs; gradients are summed over a batch."""

  loss: str = setting("contrastive", "loss of a tuple", choices=LOSSES)
  margin: float = setting(0.7, "margin of the loss", "loss_margin", least=0)
  optimizer: str = setting("adam", "optimizer", choices=OPTIMIZERS)
  rate: float = setting(1e-6, "learning rate of the first step", "lr", least=0)
  momentum: float = setting(0.9, "momentum of sgd", least=0)
  weight_decay: float = setting(
    1e-6, "share by which an update reduces each weight", least=0
  )
  batch: int = setting(5, "queries of a batch", "batch_size", least=1)
  update_every: int = setting(1, "batches of an update", least=1)
  epochs: int = setting(100, "epochs in total", least=1)
  seed: int = setting(0, "seed of weights and of tuples")


_GROUPS = {"data": Data, "network": Network, "learning": Learning}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a run, in groups, and the intervals of its outputs."""

  directory: str = setting("data", "parent of the run's folder")
  data: Data = Data()
  network: Network = Network()
  learning: Learning = Learning()
  test_every: int = setting(
    5, "epochs between validations and searches", "test_freq", least=1
  )
  print_every: int = setting(
    10, "batches between reports", "print_freq", least=1
  )
  save_every: int = setting(
    100, "batches between checkpoints; 0: after epochs only", least=0
  )
  resume: bool = setting(False, "whether to resume an existing run")

  def check(self) -> None:
    """Raise InputError if a setting is out of its range."""
    delg_settings.check(self, self.data, self.network, self.learning)
    if self.learning.loss == "triplet" and self.data.negatives < 1:
      raise errors.InputError(
        f"--neg_num must be 1 or more, not {self.data.negatives}"
      )
    for name in self.data.tests:
      if name not in revisited.DATASET_NAMES:
        raise errors.InputError(
          "--test_datasets must be of "
          f"{', '.join(revisited.DATASET_NAMES)}, not {name!r}"
        )

  def open_folder(self) -> pathlib.Path:
    """Create the folder of the run, or open that of a run to resume.

    Raises InputError if a run exists and must not be resumed, or has other
    settings.
    """
    data, learning = self.data, self.learning
    folder = pathlib.Path(
      global_features_utils.create_model_directory(  # type: ignore[call-arg]
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
        problem = "the folder has a run: give --resume, or another folder"
        raise errors.InputError(problem, path=folder)
      stored = read(path)
      for part in _GROUPS:
        for name, value in vars(getattr(self, part)).items():
          other = getattr(getattr(stored, part), name)
          if name not in _FREE and value != other:
            raise errors.InputError(
              f"the run has {name} {other} ({part}), not {value}: resume it "
              "with the same settings",
              path=path,
            )
    text = json.dumps(dataclasses.asdict(self), indent=2)
    files.write_bytes(path, text.encode())
    return folder


def define_flags() -> None:
  """Define the flags of the settings."""
  for group in (Settings, *_GROUPS.values()):
    delg_settings.define_group(group)


def settings_of_flags() -> Settings:
  """Return the settings given by the flags."""
  values: dict[str, Any] = {
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
  """Read the `settings.json` of a run; raise InputError if it is invalid."""
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
      "not the settings of a run of global training "
      f"({errors.one_line(error)})",
      path=path,
    ) from None


_ARITHMETIC: dict[type, Callable[..., Any]] = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.Pow: operator.pow,
  ast.USub: operator.neg,
}


def parse_scales(text: str) -> tuple[float, ...]:
  """Parse a list of positive scales, such as "[1, 2**(1/2), 1/2**(1/2)]".

  Raises InputError for anything but numbers and arithmetic.
  """
  try:
    node: Any = ast.parse(text, mode="eval").body
    scales = tuple(_value(element) for element in node.elts)
    if scales and all(0 < scale < float("inf") for scale in scales):
      return scales
  except (ArithmeticError, AttributeError, LookupError, SyntaxError):
    pass
  except (TypeError, ValueError):
    pass
  raise errors.InputError(
    "--multiscale must be a list of positive scales such as [1, 1/2], not "
    f"{text!r}"
  )


def _value(node):
  """Evaluate a node of arithmetic; others raise KeyError, TypeError, ..."""
  if isinstance(node, ast.BinOp):
    return _ARITHMETIC[type(node.op)](_value(node.left), _value(node.right))
  if isinstance(node, ast.UnaryOp):
    return _ARITHMETIC[type(node.op)](_value(node.operand))
  return float(node.value)
