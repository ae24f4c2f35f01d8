"""The settings that the flags of the script that trains say."""

import dataclasses
import json
import math

from absl import flags

from delf.base import errors

FLAGS = flags.FLAGS

# What --debug sets where the flag is not given: few photos, few steps, and all
# of it written.
_DEBUG = {
  "batch_size": 4,
  "max_iters": 100,
  "report_every": 10,
  "save_every": 1,
}


def settings_of_flags():
  """Returns the settings.Settings that the flags say."""
  return Settings(
    logdir=FLAGS.logdir,
    data=_data(),
    network=network(),
    learning=Learning(
      initial_lr=FLAGS.initial_lr,
      max_iters=_flag("max_iters"),
      warm_up=FLAGS.warm_up,
      attention_loss_weight=FLAGS.attention_loss_weight,
      reconstruction_loss_weight=FLAGS.reconstruction_loss_weight,
      seed=FLAGS.seed,
    ),
    reporting=Reporting(
      _flag("report_every"), _flag("save_every"), FLAGS.validate_every
    ),
    execution=Execution(
      devices=tuple(FLAGS.devices) if FLAGS.devices else None,
      xla=FLAGS.xla,
      eager=FLAGS.debug,
    ),
  )


def _flag(name):
  """Returns the value of a flag, or what --debug sets if it is not given."""
  flag = FLAGS[name]
  return (
    _DEBUG[name] if FLAGS.debug and flag.using_default_value else flag.value
  )


def _data():
  return Data(
    train_file_pattern=FLAGS.train_file_pattern,
    validation_file_pattern=FLAGS.validation_file_pattern,
    num_classes=_num_classes(),
    image_size=FLAGS.image_size,
    batch_size=_flag("batch_size"),
    use_augmentation=FLAGS.use_augmentation,
  )


def _num_classes():
  from delf.learning import delg

  if FLAGS.num_classes is None:
    return CLASSES[FLAGS.dataset_version]
  if FLAGS.num_classes == 0:
    return delg.classes_beside(FLAGS.train_file_pattern)
  return FLAGS.num_classes


def network():
  """Returns the Network that the flags say."""
  return Network(
    delg=FLAGS.delg_global_features,
    backbone=FLAGS.backbone,
    block3_strides=FLAGS.block3_strides,
    gem_power=FLAGS.delg_gem_power,
    embedding_layer_dim=FLAGS.delg_embedding_layer_dim,
    scale_factor_init=FLAGS.delg_scale_factor_init,
    arcface_margin=FLAGS.delg_arcface_margin,
    use_autoencoder=FLAGS.use_autoencoder,
    autoencoder_dimensions=FLAGS.autoencoder_dimensions,
    local_feature_map_channels=FLAGS.local_feature_map_channels,
    imagenet_checkpoint=FLAGS.imagenet_checkpoint,
    initial_weights=FLAGS.initial_checkpoint,
    precision=FLAGS.precision,
    normalization=FLAGS.normalization,
  )


# Classes of the published data sets, by `--dataset_version`.
CLASSES = {"gld_v1": 14951, "gld_v2": 203094, "gld_v2_clean": 81313}

# Forms of numbers that a network may compute with.
PRECISIONS = ("float32", "mixed_bfloat16")

# What batch normalisation does in training: statistics of the batch of each
# device, of that of all devices, or the stored ones.
NORMALIZATIONS = ("batch", "synchronized", "frozen")


@dataclasses.dataclass(frozen=True)
class Data:
  """Where photos come from.

  Attributes:
    train_file_pattern: Pattern of the TFRecords to train on.
    validation_file_pattern: The same for validation; "" for none.
    num_classes: Number of classes.
    image_size: Pixels of a side that photos are cropped and scaled to.
    batch_size: Photos of a step, over all devices.
    use_augmentation: Whether training crops at random.
    validation_images: The most photos that a validation looks at.
  """

  train_file_pattern: str = ""
  validation_file_pattern: str = ""
  num_classes: int = CLASSES["gld_v1"]
  image_size: int = 321
  batch_size: int = 32
  use_augmentation: bool = True
  validation_images: int = 50000


@dataclasses.dataclass(frozen=True)
class Network:
  """What is trained; see `delf_model.Delf` and `delg_model.Delg`.

  Attributes:
    delg: Whether it is DELG: GeM pooling, an embedding, ArcFace.
    backbone: Name of a backbone (see `backbones`).
    block3_strides: Whether every second local feature is kept per direction.
    gem_power: Power of DELG's pooling.
    embedding_layer_dim: Size of DELG's global descriptor.
    scale_factor_init: What DELG's cosines are multiplied by.
    arcface_margin: Angle in radians between a descriptor and its class.
    use_autoencoder: Whether local features are coded.
    autoencoder_dimensions: Size of the codes.
    local_feature_map_channels: Channels of what is reconstructed.
    imagenet_checkpoint: `.h5` weights that a ResNet starts from, or None.
    initial_weights: Checkpoint whose weights it starts from, or None;
      classifiers may be other ones or missing.
    precision: One of `PRECISIONS`; variables are float32 always.
    normalization: One of `NORMALIZATIONS`.
  """

  delg: bool = False
  backbone: str = "resnet50"
  block3_strides: bool = True
  gem_power: float = 3.0
  embedding_layer_dim: int = 2048
  scale_factor_init: float = 45.25
  arcface_margin: float = 0.1
  use_autoencoder: bool = True
  autoencoder_dimensions: int = 128
  local_feature_map_channels: int = 1024
  imagenet_checkpoint: str | None = None
  initial_weights: str | None = None
  precision: str = "float32"
  normalization: str = "batch"


@dataclasses.dataclass(frozen=True)
class Learning:
  """How it learns.

  Attributes:
    initial_lr: Learning rate, of the whole batch, at the first step.
    max_iters: Steps until it is 0, and of the run.
    warm_up: Steps in which it rises from 0 to where it would be.
    momentum: Of SGD.
    clip_norm: Most that the norm of all gradients may be.
    attention_loss_weight: Weight of the attention's loss.
    reconstruction_loss_weight: Weight of the autoencoder's loss.
    seed: Of weights, order and augmentation.
  """

  initial_lr: float = 0.01
  max_iters: int = 500000
  warm_up: int = 0
  momentum: float = 0.9
  clip_norm: float = 10.0
  attention_loss_weight: float = 1.0
  reconstruction_loss_weight: float = 10.0
  seed: int = 0


@dataclasses.dataclass(frozen=True)
class Reporting:
  """What is written when, in steps.

  Attributes:
    report_every: From summary to summary.
    save_every: From checkpoint to checkpoint.
    validate_every: From validation to validation.
  """

  report_every: int = 100
  save_every: int = 1000
  validate_every: int = 1000


@dataclasses.dataclass(frozen=True)
class Execution:
  """How TensorFlow runs it.

  Attributes:
    devices: Names of the devices that share a batch, such as ("GPU:0",), or
      None for all GPUs, or the processor where there is none.
    xla: Whether XLA compiles the step.
    eager: Whether nothing is compiled, for a debugger.
  """

  devices: tuple | None = None
  xla: bool = False
  eager: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
  """All that a run is told; `check` says whether it can be.

  Attributes:
    logdir: Folder of the run: `train_logs`, `delf_tf2-ckpt`, `delf_weights`.
    data: Data.
    network: Network.
    learning: Learning.
    reporting: Reporting.
    execution: Execution.
  """

  logdir: str
  data: Data = Data()
  network: Network = Network()
  learning: Learning = Learning()
  reporting: Reporting = Reporting()
  execution: Execution = Execution()

  def check(self):
    """Raises an InputError if a setting is none that can be."""
    for name, group, least in _NUMBERS:
      value = getattr(getattr(self, group), name)
      if not (least <= value < math.inf):
        raise errors.InputError(f"{name} of at least {least}", value)
    for name, group, whole in _WHOLE:
      value = getattr(getattr(self, group), name)
      if not float(value).is_integer() or value < whole:
        expected = f"a whole number of at least {whole} for {name}"
        raise errors.InputError(expected, value)
    if self.network.precision not in PRECISIONS:
      raise errors.InputError(
        f"a precision of {PRECISIONS}", repr(self.network.precision)
      )
    if self.network.normalization not in NORMALIZATIONS:
      raise errors.InputError(
        f"a normalization of {NORMALIZATIONS}", repr(self.network.normalization)
      )

  def as_json(self):
    """Returns the settings as text, in an order that stays."""
    return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


# Name, group, and least value of what is a number.
_NUMBERS = (
  ("initial_lr", "learning", 0.0),
  ("momentum", "learning", 0.0),
  ("clip_norm", "learning", 1e-6),
  ("attention_loss_weight", "learning", 0.0),
  ("reconstruction_loss_weight", "learning", 0.0),
  ("gem_power", "network", 1e-6),
  ("scale_factor_init", "network", 0.0),
  ("arcface_margin", "network", 0.0),
)
# And of what is a whole one.
_WHOLE = (
  ("num_classes", "data", 1),
  ("image_size", "data", 1),
  ("batch_size", "data", 1),
  ("validation_images", "data", 1),
  ("embedding_layer_dim", "network", 1),
  ("autoencoder_dimensions", "network", 1),
  ("local_feature_map_channels", "network", 1),
  ("max_iters", "learning", 1),
  ("warm_up", "learning", 0),
  ("seed", "learning", 0),
  ("report_every", "reporting", 1),
  ("save_every", "reporting", 1),
  ("validate_every", "reporting", 1),
)


def define_flags():
  """Defines the flags."""
  _define_run()
  _define_reports()
  _define_data()
  _define_network()
  _define_learning()


def _define_run():
  flags.DEFINE_boolean(
    "debug",
    False,
    "A run for a debugger: nothing is compiled; 100 steps of batch 4, saved "
    "each and reported every 10, where flags do not say otherwise.",
  )
  flags.DEFINE_string(
    "logdir", "/tmp/delf", "Folder of the run; one that is there goes on."
  )
  flags.DEFINE_list(
    "devices",
    None,
    "Devices that share a batch, such as GPU:0,GPU:1; without it all GPUs do.",
  )
  flags.DEFINE_boolean(
    "xla",
    False,
    "Whether XLA compiles the step; not with --normalization=synchronized on "
    "several devices.",
  )
  flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "mixed_bfloat16"],
    "What layers compute with; weights and losses are float32.",
  )
  flags.DEFINE_boolean(
    "deterministic", False, "Whether GPUs compute the same each time; slower."
  )


def _define_reports():
  flags.DEFINE_integer(
    "report_every", 100, "Steps from summary to summary.", lower_bound=1
  )
  flags.DEFINE_integer(
    "save_every", 1000, "Steps from checkpoint to checkpoint.", lower_bound=1
  )
  flags.DEFINE_integer(
    "validate_every",
    1000,
    "Steps from validation to validation.",
    lower_bound=1,
  )
  flags.DEFINE_boolean(
    "overfit_one_batch",
    False,
    "Whether, in place of a run, one batch is to be learnt by heart: a test of "
    "settings and labels, with status 1 where it fails. It keeps nothing.",
  )


def _define_data():
  flags.DEFINE_string(
    "train_file_pattern",
    "/tmp/data/train*",
    "Pattern of the TFRecords to train on.",
  )
  flags.DEFINE_string(
    "validation_file_pattern",
    "/tmp/data/validation*",
    "Pattern of the TFRecords to validate on; empty for none.",
  )
  flags.DEFINE_enum(
    "dataset_version",
    "gld_v1",
    ["gld_v1", "gld_v2", "gld_v2_clean"],
    "Google Landmarks that the TFRecords are of, which says how many classes "
    "there are; not looked at with --num_classes.",
  )
  flags.DEFINE_integer(
    "num_classes",
    None,
    "Number of classes of data of your own; 0: what labels.json beside the "
    "TFRecords has.",
    lower_bound=0,
  )
  flags.DEFINE_integer("seed", 0, "Of random weights, order and crops.")
  flags.DEFINE_integer("batch_size", 32, "Photos of a step, on all devices.")
  flags.DEFINE_integer(
    "image_size",
    321,
    "Side of the square that photos are cropped and scaled to, pixels.",
  )
  flags.DEFINE_boolean("use_augmentation", True, "Whether to crop at random.")


def _define_network():
  flags.DEFINE_string(
    "backbone", "resnet50", "Backbone: resnet50, resnet101 or compact."
  )
  flags.DEFINE_boolean(
    "block3_strides", True, "Whether every second local feature is kept."
  )
  flags.DEFINE_string(
    "imagenet_checkpoint", None, "ImageNet weights (.h5) to start from."
  )
  flags.DEFINE_string(
    "initial_checkpoint",
    None,
    "Weights of a model to start from, such as the delf_weights of a run; "
    "classifiers may be of other classes.",
  )
  flags.DEFINE_boolean(
    "delg_global_features", False, "Whether to train DELG in place of DELF."
  )
  flags.DEFINE_float("delg_gem_power", 3.0, "Power of DELG's GeM pooling.")
  flags.DEFINE_integer(
    "delg_embedding_layer_dim", 2048, "Size of DELG's global descriptor."
  )
  flags.DEFINE_float(
    "delg_scale_factor_init", 45.25, "Factor of DELG's cosines at first."
  )
  flags.DEFINE_float(
    "delg_arcface_margin", 0.1, "ArcFace margin of DELG in radians."
  )
  flags.DEFINE_boolean(
    "use_autoencoder",
    True,
    "Whether local features are coded by an autoencoder.",
  )
  flags.DEFINE_float(
    "autoencoder_dimensions", 128, "Size of the autoencoder's codes."
  )
  flags.DEFINE_float(
    "local_feature_map_channels",
    1024,
    "Channels of what the autoencoder reconstructs.",
  )
  flags.DEFINE_enum(
    "normalization",
    "batch",
    ["batch", "synchronized", "frozen"],
    "Statistics of batch normalisation: of each device's share, of the batch, "
    "or the stored ones.",
  )


def _define_learning():
  flags.DEFINE_float(
    "initial_lr", 0.01, "Learning rate; it falls to 0 linearly."
  )
  flags.DEFINE_integer("max_iters", 500000, "Steps of the run, all told.")
  flags.DEFINE_integer(
    "warm_up", 0, "Steps in which the learning rate rises to where it would be."
  )
  flags.DEFINE_float(
    "attention_loss_weight", 1.0, "Weight of the attention's loss."
  )
  flags.DEFINE_float(
    "reconstruction_loss_weight", 10.0, "Weight of the autoencoder's loss."
  )
