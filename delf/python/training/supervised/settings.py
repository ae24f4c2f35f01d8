"""What a run of training is told: data, network, learning, reporting."""

import dataclasses
import json
import math

from delf.python import errors

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
