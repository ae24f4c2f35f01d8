"""Settings of supervised training, and the flags of its script.

`setting` defines a dataclass field together with its flag, here and in
`pairs_settings`.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from delf.base import errors

FLAGS = flags.FLAGS

_KINDS = {bool: "boolean", int: "integer", str: "string", tuple: "list"}

# Classes of the published data sets, by `--dataset_version`.
CLASSES = {"gld_v1": 14951, "gld_v2": 203094, "gld_v2_clean": 81313}

# Defaults of other flags with --debug.
_DEBUG = {"batch_size": 4, "max_iters": 100}
_DEBUG |= {"report_every": 10, "save_every": 1}


def setting(
  default: Any,
  /,
  text: str | None = None,
  flag: str | None = None,
  *,
  kind: str | None = None,
  least: float | None = None,
  choices: Iterable[str] = (),
  **options: Any,
) -> Any:
  """Return a dataclass field with a range of values and, with `text`, a flag.

  Args:
    default: Default of the field and of the flag.
    text: Help of the flag.
    flag: Name of the flag; None for the name of the field.
    kind: Type of the flag, such as "integer"; None for the type of the default.
    least: Lower limit that `check` applies.
    choices: Values that `check` accepts besides the default.
    **options: Options of the flag, such as `lower_bound` or its own `default`.
  """
  choices = tuple(choices)
  metadata: dict[str, Any] = {"flag": flag, "least": least}
  metadata["choices"] = choices
  if choices:
    kind, options = "enum", {"enum_values": choices}
  if text is not None:
    kind = kind or _KINDS.get(type(default), "float")
    metadata["define"] = getattr(flags, f"DEFINE_{kind}")
    metadata["options"] = {"default": default, "help": text} | options
  return dataclasses.field(default=default, metadata=metadata)


def _flagged(group):
  """Return the fields of a dataclass that have flags, by name of the flag."""
  return {
    field.metadata["flag"] or field.name: field
    for field in dataclasses.fields(group)
    if "define" in field.metadata
  }


def define_group(group: type) -> None:
  """Define the flags of a dataclass."""
  for name, field in _flagged(group).items():
    field.metadata["define"](name, **field.metadata["options"])


def of_flags(group: type, values: Mapping[str, Any] | None = None) -> Any:
  """Return an instance of a dataclass with the values of its flags.

  `values`, by name of a field, override flags; other names are ignored.
  """
  fields = _flagged(group).items()
  of_flag = {field.name: FLAGS[name].value for name, field in fields}
  chosen = {n: v for n, v in (values or {}).items() if n in of_flag}
  return group(**of_flag | chosen)


def check(*groups: Any) -> None:
  """Raise InputError if a setting of the dataclasses is out of its range."""
  for group in groups:
    for field in dataclasses.fields(group):
      if not field.metadata:
        continue
      value = getattr(group, field.name)
      name = field.metadata["flag"] or field.name
      least, choices = field.metadata["least"], field.metadata["choices"]
      if choices and value not in (field.default, *choices):
        limit = f"one of {', '.join(choices)}"
      elif least is not None and not least <= value < math.inf:
        limit = f"{least} or more"
      elif type(field.default) is int and not float(value).is_integer():
        limit = "a whole number"
      else:
        continue
      raise errors.InputError(f"--{name} must be {limit}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class Data:
  """Photos for training and validation."""

  train_file_pattern: str = setting(
    "", "Pattern of the TFRecords to train on.", default="/tmp/data/train*"
  )
  validation_file_pattern: str = setting(
    "",
    "Pattern of the TFRecords to validate on; empty for none.",
    default="/tmp/data/validation*",
  )
  num_classes: int = setting(
    CLASSES["gld_v1"],
    "Number of classes of your own data; 0: the number in labels.json beside "
    "the TFRecords.",
    least=1,
    default=None,
    lower_bound=0,
  )
  image_size: int = setting(
    321, "Side, in pixels, of cropped and scaled photos.", least=1
  )
  batch_size: int = setting(32, "Photos of a step, on all devices.", least=1)
  use_augmentation: bool = setting(True, "Whether to crop at random.")
  # Upper limit of the photos of a validation.
  validation_images: int = setting(50000, least=1)


@dataclasses.dataclass(frozen=True)
class Network:
  """The model, a `delf_model.Delf` or `delg_model.Delg`, and its weights."""

  delg: bool = setting(
    False, "Whether to train DELG in place of DELF.", "delg_global_features"
  )
  backbone: str = setting(
    "resnet50", "Backbone: resnet50, resnet101 or compact."
  )
  block3_strides: bool = setting(
    True, "Whether to keep every second local feature only."
  )
  gem_power: float = setting(
    3.0, "Power of DELG's GeM pooling.", "delg_gem_power", least=1e-6
  )
  embedding_layer_dim: int = setting(
    2048, "Size of DELG's descriptors.", "delg_embedding_layer_dim", least=1
  )
  scale_factor_init: float = setting(
    45.25, "First scale of DELG's cosines.", "delg_scale_factor_init", least=0.0
  )
  arcface_margin: float = setting(
    0.1, "ArcFace margin of DELG in radians.", "delg_arcface_margin", least=0.0
  )
  use_autoencoder: bool = setting(
    True, "Whether an autoencoder reduces local features."
  )
  autoencoder_dimensions: int = setting(
    128, "Size of the autoencoder's codes.", kind="float", least=1
  )
  local_feature_map_channels: int = setting(
    1024, "Channels that the autoencoder restores.", kind="float", least=1
  )
  imagenet_checkpoint: str | None = setting(
    None, "ImageNet weights (.h5) to start from.", kind="string"
  )
  initial_weights: str | None = setting(
    None,
    "Weights of a model to start from, such as the delf_weights of a run; its "
    "classes may differ.",
    "initial_checkpoint",
    kind="string",
  )
  precision: str = setting(
    "float32",
    "Precision of the layers' computations; weights and losses are float32.",
    choices=("float32", "mixed_bfloat16"),
  )
  normalization: str = setting(
    "batch",
    "Statistics of batch normalisation: of each device's share of a batch "
    "(batch), of the whole batch (synchronized), or stored (frozen).",
    choices=("batch", "synchronized", "frozen"),
  )


@dataclasses.dataclass(frozen=True)
class Learning:
  """Optimizer, losses and their weights."""

  initial_lr: float = setting(
    0.01, "Initial learning rate; it falls to 0 linearly.", least=0.0
  )
  max_iters: int = setting(500000, "Steps in total.", least=1)
  warm_up: int = setting(
    0, "Steps over which the learning rate rises from 0.", least=0
  )
  momentum: float = setting(0.9, least=0.0)
  # Gradients of a larger common norm are scaled down to this norm.
  clip_norm: float = setting(10.0, least=1e-6)
  attention_loss_weight: float = setting(
    1.0, "Weight of the attention's loss.", least=0.0
  )
  reconstruction_loss_weight: float = setting(
    10.0, "Weight of the autoencoder's loss.", least=0.0
  )
  seed: int = setting(0, "Seed of weights, order and crops.", least=0)


@dataclasses.dataclass(frozen=True)
class Reporting:
  """Intervals, in steps, of summaries, checkpoints and validations."""

  report_every: int = setting(
    100, "Steps between summaries.", least=1, lower_bound=1
  )
  save_every: int = setting(
    1000, "Steps between checkpoints.", least=1, lower_bound=1
  )
  validate_every: int = setting(
    1000, "Steps between validations.", least=1, lower_bound=1
  )


@dataclasses.dataclass(frozen=True)
class Execution:
  """Devices and compilation."""

  devices: tuple[str, ...] | None = setting(
    None,
    "Devices that share a batch, such as GPU:0,GPU:1; by default all GPUs.",
    kind="list",
  )
  xla: bool = setting(
    False,
    "Whether to compile the step with XLA; not with "
    "--normalization=synchronized on several devices.",
  )
  eager: bool = setting(
    False,
    "Whether to run without compilation, for a debugger; unless other flags "
    "are given, with 100 steps of batch size 4, saved after each step and "
    "reported every 10.",
    "debug",
  )


_GROUPS = (Data, Network, Learning, Reporting, Execution)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Settings of a run, in groups."""

  logdir: str
  data: Data = Data()
  network: Network = Network()
  learning: Learning = Learning()
  reporting: Reporting = Reporting()
  execution: Execution = Execution()

  def check(self) -> None:
    """Raise InputError if a setting is out of its range."""
    check(
      self.data, self.network, self.learning, self.reporting, self.execution
    )

  def as_json(self) -> str:
    """Return the settings as JSON, in a fixed order."""
    return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def define_flags() -> None:
  """Define the flags."""
  for group in _GROUPS:
    define_group(group)
  flags.DEFINE_string(
    "logdir", "/tmp/delf", "Folder of the run; an existing run is resumed."
  )
  flags.DEFINE_boolean(
    "deterministic", False, "Whether GPUs give reproducible results; slower."
  )
  flags.DEFINE_boolean(
    "overfit_one_batch",
    False,
    "Whether to train on one batch only, as a test of settings and labels; "
    "exit status 1 if the model does not learn it. No files are kept.",
  )
  flags.DEFINE_enum(
    "dataset_version",
    "gld_v1",
    list(CLASSES),
    "Version of Google Landmarks in the TFRecords, which gives the number of "
    "classes; ignored with --num_classes.",
  )


def settings_of_flags() -> Settings:
  """Return the settings given by the flags."""
  devices = tuple(FLAGS.devices) if FLAGS.devices else None
  classes = FLAGS.num_classes
  if classes is None:
    classes = CLASSES[FLAGS.dataset_version]
  elif classes == 0:
    from delf.learning import delg

    classes = delg.classes_beside(FLAGS.train_file_pattern)
  values = {"num_classes": classes, "devices": devices}
  for name, value in _DEBUG.items():
    if FLAGS.debug and FLAGS[name].using_default_value:
      values[name] = value
  return Settings(FLAGS.logdir, *(of_flags(g, values) for g in _GROUPS))
