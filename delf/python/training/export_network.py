"""Networks of exports as files for other runtimes: ONNX and TFLite."""

import contextlib
import dataclasses
import logging
import os
import pathlib
import tempfile
import warnings

import tensorflow as tf

from delf.python import checkpoint_io, errors, extras, network_io
from delf.python.training.model import network_functions

# How weights of a TFLite file may be kept, in TFLite's words.
FLOAT32, FLOAT16, DYNAMIC = "float32", "float16", "dynamic-range"
PRECISIONS = (FLOAT32, FLOAT16, DYNAMIC)

# Operators of ONNX as of 2022, which runtimes of the last years have.
_OPSET = 18

# Errors of converters go on for pages; the first words say what happened.
_LONGEST_REASON = 300


class NetworkSource:
  """The network of a SavedModel of this library, to be written elsewhere.

  Attributes:
    settings: network_io.Settings.
  """

  def __init__(self, folder):
    """Loads it.

    Args:
      folder: Path of the SavedModel.

    Raises:
      InputError: If it cannot be read, or is not of this version's exporters.
    """
    self._folder = folder
    try:
      self._loaded = tf.saved_model.load(os.fspath(folder))
    except Exception as error:  # TensorFlow raises whatever damage leads to.
      reason = " ".join(str(error).split())
      raise errors.InputError(
        "a whole SavedModel", f"one that cannot be read ({reason})", folder
      ) from None
    functions = self._loaded.signatures
    self.settings = network_functions.read_settings(functions, folder)
    self.functions = {
      name: network_functions.without_settings(functions[name])
      for name in (network_functions.NETWORK, network_functions.LOCAL)
      if name in functions
    }

  def write_onnx(self, path, config=""):
    """Writes an ONNX file.

    Args:
      path: Path of a file that does not exist yet.
      config: Text of the DelfConfig to use unless another one is given.

    Raises:
      InputError: If `tf2onnx` is not installed.
    """
    convert = extras.load("tf2onnx.convert", "onnx")
    function = self.functions[network_functions.NETWORK]
    # What it lacks shows when the file is loaded.
    with (
      _quiet("tf2onnx", logging.CRITICAL),
      _converting("ONNX", self._folder),
    ):
      model, _ = convert.from_function(
        function, function.input_signature, opset=_OPSET
      )
    settings = dataclasses.replace(self.settings, config=config)
    # Of all metadata, so that the file says nothing of where it was made.
    del model.metadata_props[:]
    model.metadata_props.add(key=network_io.KEY, value=settings.text())
    model.producer_name, model.doc_string = "delf", ""
    pathlib.Path(path).write_bytes(model.SerializeToString(deterministic=True))

  def write_tflite(self, path, config="", precision=FLOAT32):
    """Writes a TFLite file for TFLite's own operators.

    Args:
      path: As for `write_onnx`.
      config: As for `write_onnx`.
      precision: How weights are kept; one of PRECISIONS.
    """
    with tempfile.TemporaryDirectory(prefix="delf_export") as folder:
      _save(self.functions, folder)
      with (
        _quiet("tensorflow"),
        warnings.catch_warnings(),
        _converting("TFLite", self._folder),
      ):
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_saved_model(
          folder, signature_keys=sorted(self.functions)
        )
        if precision != FLOAT32:
          converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == FLOAT16:
          converter.target_spec.supported_types = [tf.float16]
        data = converter.convert()
    settings = dataclasses.replace(
      self.settings, config=config, precision=precision
    )
    pathlib.Path(path).write_bytes(data)
    network_io.add_tflite_settings(path, settings)


def _save(functions, folder):
  """Writes a SavedModel of functions for one image."""
  concrete = {n: f.get_concrete_function() for n, f in functions.items()}
  module = tf.Module()
  module.weights = list(
    {id(v): v for f in concrete.values() for v in f.graph.variables}.values()
  )
  with checkpoint_io.writing("the SavedModel", folder), _quiet("tensorflow"):
    tf.saved_model.save(module, folder, signatures=concrete)


@contextlib.contextmanager
def _converting(name, path):
  """Turns what a converter raises into an InputError."""
  try:
    yield
  except Exception as error:  # They raise whatever they have.
    reason = " ".join(str(error).split())[:_LONGEST_REASON]
    raise errors.InputError(
      f"a network of operations that {name} has", reason, path
    ) from error


@contextlib.contextmanager
def _quiet(name, level=logging.WARNING):
  """Keeps a logger from saying what is under a level."""
  logger = logging.getLogger(name)
  before = logger.level
  logger.setLevel(level)
  try:
    yield
  finally:
    logger.setLevel(before)
