"""Extraction models by path, of whichever kind."""

import pathlib

from delf.python import network_io


def load(path, device=None):
  """Loads an extraction model.

  TensorFlow is loaded for a SavedModel alone.

  Args:
    path: Folder of a SavedModel, or a `.onnx` or `.tflite` file of
      `delf export`.
    device: As in `devices.resolve`.

  Returns:
    saved_model.ExtractionModel or single_file.SingleFileModel.

  Raises:
    FileNotFoundError: If there is nothing at the path.
    InputError: If it is something else, or cannot be read, or the package that
      runs it is not installed, or there is no such device.
  """
  path = pathlib.Path(path)
  if not network_io.is_network(path) or path.is_dir():
    from delf.python.inference import saved_model

    return saved_model.load(path, device)
  if path.suffix.lower() == network_io.ONNX:
    from delf.python.inference import onnx_model as runtime
  else:
    from delf.python.inference import tflite_model as runtime

  return runtime.load(path, device)
