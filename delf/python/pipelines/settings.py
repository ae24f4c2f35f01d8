"""The configuration to use, from a model and a file that may be named."""

import os
import pathlib

from delf.python import config_io, errors, network_io


def choose(model=None, config_path=None):
  """Returns the configuration that a model, a file or neither stands for.

  Args:
    model: Name of a known model, or path of a SavedModel folder or of a `.onnx`
      or `.tflite` file, or None.
    config_path: Path of a `.pbtxt` configuration, or None.

  Returns:
    delf_config_pb2.DelfConfig: that of the file, with the model in place of its
    own where one is named; without a file that of the model (`config.pbtxt` in
    its folder, or what is known of it); without both that of the embedded one.

  Raises:
    InputError: If the file or the name is not right, or a folder comes without
      settings.
  """
  from delf.python.inference import zoo, zoo_table

  if config_path is not None:
    config = config_io.read_delf_config(config_path)
    if model is not None:
      config.model_path = os.fspath(model)
    return config
  if model is None:
    return zoo.default_config(zoo_table.EMBEDDED)
  config = _own(pathlib.Path(model))
  if config is not None:
    config.model_path = os.fspath(model)
    return config
  if zoo.find(model) is None and pathlib.Path(model).exists():
    raise errors.InputError(
      "settings for this model (--config, or config.pbtxt in its folder)",
      "none",
      model,
    )
  return zoo.default_config(model)


def _own(model):
  """Returns the configuration that a model has with it, or None."""
  if network_io.is_network(model) and model.is_file():
    text = network_io.read_settings(model).config
    return config_io.parse_delf_config(text, model) if text else None
  beside = model / "config.pbtxt"
  return config_io.read_delf_config(beside) if beside.exists() else None
