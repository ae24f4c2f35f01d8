"""Rows of the table of bad input: exports, and networks in one file."""

import json

import numpy as np
import PIL.Image
import tensorflow as tf

from delf.formats import network_files, wire

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _photo(folder):
  pixels = np.zeros([64, 64, 3], np.uint8)
  PIL.Image.fromarray(pixels).save(folder / "a.png")
  return folder / "a.png"


def _extract(folder, model):
  out = str(folder.parent / "out")
  return ["extract", str(_photo(folder)), "--out", out, "--model", str(model)]


def _export(folder, source, *more, out="model"):
  out = str(folder.parent / "out" / out)
  return ["export", str(source), "--out", out, *more]


def _checkpoint(folder, **shapes):
  variables = {
    n: {"kernel": tf.Variable(tf.zeros(s))} for n, s in shapes.items()
  }
  backbone = tf.train.Checkpoint(**variables)
  return tf.train.Checkpoint(backbone=backbone).write(str(folder / "weights"))


def _onnx(folder, settings):
  """Writes the head of an ONNX file with settings, and no network."""
  pair = b""
  for number, text in ((1, network_files.KEY), (2, settings)):
    pair += wire.delimited(number, len(text)) + text.encode()
  path = folder.parent / "model.onnx"
  path.write_bytes(wire.delimited(14, len(pair)) + pair)
  return path


@_case("ONNX file that is none", "model.onnx", "`delf export`")
def _no_onnx(folder):
  path = folder.parent / "model.onnx"
  path.write_text("A network would be here.")
  return _extract(folder, path)


@_case("ONNX file of another program", "model.onnx", "not an ONNX file of")
def _other_onnx(folder):
  path = folder.parent / "model.onnx"
  path.write_bytes(wire.tag(1, 0) + wire.varint(8) + wire.delimited(2, 0))
  return _extract(folder, path)


@_case("ONNX file with settings that cannot be", "model.onnx", "settings")
def _bad_settings(folder):
  return _extract(folder, _onnx(folder, json.dumps({"form": "other"})))


@_case("TFLite file that is none", "model.tflite", "`delf export`")
def _no_tflite(folder):
  path = folder.parent / "model.tflite"
  path.write_bytes(b"TFL3" * 100)
  return _extract(folder, path)


@_case("ONNX file that is missing", "none.onnx")
def _missing_onnx(folder):
  return _extract(folder, folder / "none.onnx")


@_case("export of a checkpoint that is missing", "nowhere", "checkpoint")
def _no_checkpoint(folder):
  return _export(folder, folder / "nowhere")


@_case("export of a checkpoint of another architecture", "weights", "missing")
def _other_architecture(folder):
  return _export(folder, _checkpoint(folder, layer=[3, 3]))


@_case("export of a photo", "a.png", "checkpoint")
def _no_checkpoint_file(folder):
  return _export(folder, _photo(folder))


@_case("export of an ONNX file", "model.onnx", "SavedModel")
def _from_onnx(folder):
  return _export(folder, _onnx(folder, "{}"))


@_case("export of a file that is no checkpoint", "weights")
def _no_weights(folder):
  (folder / "weights.index").write_text("Weights would be here.")
  return _export(folder, folder / "weights")


@_case("export of a SavedModel of another program", "model", "`network`")
def _other_model(folder):
  module = tf.Module()
  call = tf.function(lambda x: {"y": x}, [tf.TensorSpec([], tf.float32, "x")])
  tf.saved_model.save(module, str(folder / "model"), signatures=call)
  return _export(folder, folder / "model", out="model.tflite")


@_case("export of fixed scales of local features", "form global", "local")
def _scales_of_local(folder):
  more = ["--form", "local", "--scales", "1,2"]
  return _export(folder, _checkpoint(folder, layer=[3, 3]), *more)


@_case("export tried on a photo that is none", "a.png", "image")
def _bad_photo(folder):
  _photo(folder).write_bytes(b"A photo would be here.")
  # Of a checkpoint that would fail, if it were not for the photo.
  source = _checkpoint(folder, layer=[3, 3])
  return _export(folder, source, "--photos", str(folder))


@_case("export tried on photos that are missing", "nowhere")
def _no_photos(folder):
  source = _checkpoint(folder, layer=[3, 3])
  return _export(folder, source, "--photos", str(folder / "nowhere"))


@_case("export to a name of another format", "model.tflite", ".onnx")
def _other_format(folder):
  source = _checkpoint(folder, layer=[3, 3])
  return _export(folder, source, "--format", "onnx", out="model.tflite")


@_case("weights of 8 bits in an ONNX file", "tflite", "dynamic-range")
def _quantized_onnx(folder):
  more = ["--quantize", "dynamic"]
  source = _checkpoint(folder, layer=[3, 3])
  return _export(folder, source, *more, out="model.onnx")
