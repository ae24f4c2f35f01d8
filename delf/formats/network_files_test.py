import dataclasses
import zipfile

import pytest

from delf.base import errors
from delf.formats import network_files, wire

_SETTINGS = network_files.Settings(
  "local_and_global",
  receptive=(33.0, 8.0, 16.0),
  iou=0.4,
  local_size=96,
  global_size=128,
  config='model_path: "x"',
)
_FIXED = network_files.Settings(
  "global", input_scales=(0.5, 1.0), pool_type="sum", normalize=True
)


def _field(number, data):
  return wire.delimited(number, len(data)) + data


def _onnx(settings, key=network_files.KEY):
  """Returns the bytes of a ModelProto with other fields around."""
  pair = _field(1, key.encode()) + _field(2, settings.encode())
  version = wire.tag(1, 0) + wire.varint(8)
  graph = _field(7, b"\xff" * 1000)
  return version + _field(2, b"delf") + graph + _field(14, pair)


@pytest.mark.parametrize("settings", [_SETTINGS, _FIXED])
@pytest.mark.parametrize("suffix", [network_files.ONNX, network_files.TFLITE])
def test_settings_are_read_as_they_were_written(tmp_path, settings, suffix):
  path = tmp_path / f"model{suffix}"
  if suffix == network_files.ONNX:
    path.write_bytes(_onnx(settings.text()))
  else:
    path.write_bytes(b"TFL3" * 500)
    network_files.add_tflite_settings(path, settings)
    assert path.read_bytes().startswith(b"TFL3" * 500)
  assert network_files.read_settings(path) == settings


def test_settings_of_a_later_version_are_read():
  text = _SETTINGS.text()[:-1] + ', "new": 1}'
  assert network_files.parse(text) == _SETTINGS


@pytest.mark.parametrize(
  "change",
  [
    {"form": "other"},
    {"receptive": None},
    {"receptive": [1, 2]},
    {"receptive": [1, 2, "x"]},
    {"iou": None},
    {"iou": float("nan")},
    {"input_scales": []},
    {"input_scales": [0.0]},
    {"pool_type": "max"},
    {"config": 1},
    {"local_size": "96"},
  ],
)
def test_settings_that_cannot_be_are_refused(change):
  text = dataclasses.replace(_SETTINGS, **change).text()
  with pytest.raises(
    errors.InputError, match="model.onnx: the settings are not"
  ):
    network_files.parse(text, "model.onnx")


@pytest.mark.parametrize(
  "text", ["", "[]", "3", "{", '{"form": []}', "[" * 9999]
)
def test_other_texts_are_refused(text):
  with pytest.raises(errors.InputError, match="settings"):
    network_files.parse(text)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"no model",
    b"\xff" * 100,
    _onnx(_SETTINGS.text(), key="other"),
    _onnx(_SETTINGS.text())[:-50],
    _field(14, b"\xff\xff"),
    _field(14, b"\x0a" * (2**20 + 1)),
  ],
)
def test_other_onnx_files_are_refused(tmp_path, data):
  path = tmp_path / "model.onnx"
  path.write_bytes(data)
  with pytest.raises(errors.InputError, match="not an ONNX file .*delf export"):
    network_files.read_settings(path)


def test_other_tflite_files_are_refused(tmp_path):
  path = tmp_path / "model.tflite"
  path.write_bytes(b"TFL3" * 500)
  with pytest.raises(errors.InputError, match="not a TFLite file"):
    network_files.read_settings(path)
  with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(network_files.MEMBER, b" " * (2**20 + 1))
  with pytest.raises(errors.InputError, match="not a TFLite file"):
    network_files.read_settings(path)


def test_what_is_missing_or_a_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.onnx: no such file"):
    network_files.read_settings(tmp_path / "none.onnx")
  (tmp_path / "folder.onnx").mkdir()
  with pytest.raises(errors.InputError, match="a folder, not a file"):
    network_files.read_settings(tmp_path / "folder.onnx")
