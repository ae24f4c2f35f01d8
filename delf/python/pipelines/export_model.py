"""What `delf export` starts from: a model of weights, whichever way kept."""

import dataclasses
import json
import math
import pathlib

from delf.python import errors, files, network_io

# Names in the folder of a run of `training/train.py`.
_WEIGHTS, _RUN, _SETTINGS = "delf_weights", "delf_tf2-ckpt", "settings.json"

# The most bytes of the settings of a run, which take about 2000.
_MOST_SETTINGS = 2**20


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """What a checkpoint is of, as far as it is not to be told from it.

  Attributes:
    backbone: Name of a backbone, or None to tell it from the checkpoint.
    delg: Whether it is a DELG model, or None to tell it.
    use_autoencoder: Whether local features are an autoencoder's codes, or None:
      if the checkpoint has one.
    block3_strides: Whether every second local feature is kept per direction,
      or None for what the settings of the run say, else True: no checkpoint
      says it.
    gem_power: Power of the GeM pooling, or None for what the settings of the
      run say, else 3.
  """

  backbone: str | None = None
  delg: bool | None = None
  use_autoencoder: bool | None = None
  block3_strides: bool | None = None
  gem_power: float | None = None


def find(source):
  """Returns the pathlib.Path of what is exported.

  Args:
    source: Path, or name of a known model.

  Raises:
    FileNotFoundError: If there is no such path or name.
    InputError: If it is an export that nothing can be made of.
  """
  path = pathlib.Path(source)
  if network_io.is_network(path) and path.is_file():
    raise errors.InputError(
      "what it was exported from: a checkpoint or a SavedModel",
      f"a {path.suffix.lower()} file, which is the end of the way",
      source,
    )
  if path.exists() or pathlib.Path(f"{path}.index").exists():
    return path
  from delf.python.inference import zoo

  if zoo.find(source) is None:
    raise FileNotFoundError(
      f"{source}: expected a checkpoint or a SavedModel, found none"
    )
  return zoo.resolve(source)


def load(source, options, parts):
  """Makes a model with the weights of a source.

  Args:
    source: pathlib.Path of a TensorFlow checkpoint (its prefix, or the folder
      of a training run), or of `weights.npz` of a compact model or the folder
      that it lies in.
    options: ModelOptions.
    parts: "local", "global": what will be exported.

  Returns:
    delf_model.Delf, and words for what it is.

  Raises:
    FileNotFoundError: If there is nothing of the kind.
    InputError: If it cannot be read, or is of another architecture.
  """
  from delf.python.training.self_supervised import weights_file

  if source.name == weights_file.NAME or (source / weights_file.NAME).is_file():
    return _of_weights_file(source, options)
  from delf.python.training import exporting

  path = _checkpoint(source)
  given = dataclasses.asdict(options)
  told = _told(path) | _of_run(path)
  told |= {name: value for name, value in given.items() if value is not None}
  model = exporting.load_model(path, parts=parts, **told)
  return model, _words(told)


def has_training_weights(folder):
  """Returns whether a folder has the weights that `load` makes a model of."""
  from delf.python.training.self_supervised import weights_file

  return (pathlib.Path(folder) / weights_file.NAME).is_file()


def _of_weights_file(source, options):
  from delf.python.training.model import delg_model
  from delf.python.training.self_supervised import weights_file

  if options.backbone not in (None, "compact"):
    raise errors.InputError(
      f"weights of {options.backbone}", "those of a compact model", source
    )
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  weights_file.load(model, source)
  return model, "compact, with a global head"


def _checkpoint(source):
  """Returns the path of the checkpoint that is meant."""
  if source.is_dir() and not (source / "checkpoint").exists():
    if (source / f"{_WEIGHTS}.index").exists():
      return source / _WEIGHTS
    if (source / _RUN / "checkpoint").exists():
      return source / _RUN
  return source


def _told(path):
  """Returns the options of `exporting.load_model` that a checkpoint tells."""
  from delf.python import checkpoint_io
  from delf.python.training.model import checkpoints

  shapes = {
    key.removesuffix(checkpoint_io.SUFFIX).removeprefix("model/"): shape
    for key, shape, _ in checkpoints.describe(path)
  }
  backbone = "resnet50"
  if "backbone/conv1a/convolution/kernel" in shapes:
    backbone = "compact"
  elif any(name.startswith("backbone/l4w/") for name in shapes):
    backbone = "resnet101"
  codes = shapes.get("autoencoder/conv1/kernel")
  features = shapes.get("autoencoder/conv2/kernel")
  embedding = shapes.get("backbone/embedding_layer/kernel")
  told = {
    "backbone": backbone,
    "delg": embedding is not None,
    "use_autoencoder": codes is not None and features is not None,
  }
  if told["use_autoencoder"]:
    told["autoencoder_dimensions"] = codes[-1]
    told["local_feature_map_channels"] = features[-1]
  if embedding is not None:
    told["embedding_layer_dim"] = embedding[-1]
  return told


def _of_run(checkpoint):
  """Returns what the settings beside a checkpoint say that it does not."""
  told = {"block3_strides": True, "gem_power": 3.0}
  for folder in (*checkpoint.parents[:2], checkpoint):
    path = folder / _SETTINGS
    if not path.is_file():
      continue
    try:
      network = json.loads(files.read_bytes(path, _MOST_SETTINGS))["network"]
      strides, power = (network[name] for name in told)
      power = float(power)
    except (ValueError, TypeError, KeyError, RecursionError):
      continue  # Something else of this name.
    if isinstance(strides, bool) and 0 < power < math.inf:
      return {"block3_strides": strides, "gem_power": power}
  return told


def _words(told):
  words = [told["backbone"]]
  if told["delg"] and told["backbone"] != "compact":
    words.append(f"DELG (GeM {told['gem_power']:g}, embedding)")
  if told["use_autoencoder"]:
    words.append(f"codes of {told.get('autoencoder_dimensions', 128)} values")
  if told["backbone"] != "compact":
    kept = "every second" if told["block3_strides"] else "every"
    words.append(f"{kept} local feature")
  return ", ".join(words)
