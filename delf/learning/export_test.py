import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from delf.api import info
from delf.base import errors
from delf.formats import network_files
from delf.inference import extractor, single_file, zoo
from delf.learning import export
from delf.networks import exporting, model_checkpoints
from delf.python import feature_io
from delf.python.training.model import delf_model
from tests.stand_ins import tiny_backbone

_CONFIG = """\
model_path: "x"
image_scales: 0.5
image_scales: 1.0
delf_local_config { use_pca: false max_feature_num: 50 score_threshold: 0 }
use_global_features: true
delf_global_config { use_pca: false image_scales_ind: 0 }
"""
_BLOCKED = """
import sys
for name in ("tensorflow", "keras", "tf2onnx", "onnx"):
  sys.modules[name] = None
from delf.cli import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
  path = tmp_path_factory.mktemp("photos") / "photo.png"
  Image.fromarray(tiny_backbone.image(96, 130)).save(path)
  return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Returns {form: folder of a small SavedModel with its configuration}."""
  root = tmp_path_factory.mktemp("models")
  for form in network_files.FORMS:
    exporting.export(tiny_backbone.make(), root / form, form)
    (root / form / "config.pbtxt").write_text(_CONFIG)
  return {form: root / form for form in network_files.FORMS}


def _export(source, out, photo, **options):
  given = export.ExportOptions(photos=[photo], **options)
  return export.export(source, out, given)


def _extract(model, photo):
  image = np.array(Image.open(photo))
  made = extractor.make_extractor(zoo.choose(str(model)))
  return made.extract(image)


@pytest.fixture(scope="module")
def onnx(models, photo, tmp_path_factory):
  pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
  pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
  path = tmp_path_factory.mktemp("onnx") / "model.onnx"
  return path, _export(models["local_and_global"], path, photo)


@pytest.fixture(scope="module")
def tflite(models, photo, tmp_path_factory):
  pytest.importorskip("ai_edge_litert", reason="the extra tflite is missing")
  path = tmp_path_factory.mktemp("tflite") / "model.tflite"
  return path, _export(models["local_and_global"], path, photo)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_file_gives_the_features_of_the_savedmodel(
  kind, models, photo, request
):
  path, report = request.getfixturevalue(kind)
  assert (report.format, report.form) == (kind, "local_and_global")
  assert report.bytes == path.stat().st_size
  one = _extract(models["local_and_global"], photo)
  found = export.compare(one, _extract(path, photo))
  assert found == report.differences
  assert found.features == 50 and found.common == 1.0
  assert found.location == 0
  assert 0 < found.descriptor + found.global_descriptor < 1e-5
  assert found.attention < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["local", "global"])
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_forms_of_one_part(kind, form, models, photo, tmp_path, request):
  request.getfixturevalue(kind)
  out = tmp_path / f"model.{kind}"
  report = _export(models[form], out, photo)
  assert report.form == form and report.differences.photos == 1
  json.dumps(dataclasses.asdict(report))
  config = zoo.choose(str(out))
  assert config.use_local_features == (form == "local")
  assert config.use_global_features == (form == "global")


@pytest.mark.slow
def test_weights_of_fewer_bits_are_near(models, photo, tmp_path, tflite):
  found = {}
  for precision in ("float16", "dynamic-range"):
    out = tmp_path / f"{precision}.tflite"
    report = _export(models["local"], out, photo, precision=precision)
    found[precision] = report.differences
    assert network_files.read_settings(out).precision == precision
  assert 1e-6 < found["float16"].descriptor < 0.02
  assert found["float16"].descriptor < found["dynamic-range"].descriptor


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_extraction_needs_no_tensorflow(kind, models, photo, tmp_path, request):
  path, _ = request.getfixturevalue(kind)
  out = tmp_path / "features"
  words = ["extract", str(photo), "--out", str(out), "--model", str(path)]
  root = os.path.dirname(os.path.dirname(tiny_backbone.__file__))
  done = subprocess.run(
    [sys.executable, "-c", _BLOCKED, *words],
    env={**os.environ, "PYTHONPATH": root},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  wanted = _extract(models["local_and_global"], photo)
  locations, *_ = feature_io.ReadFromFile(out / "photo.delf")
  np.testing.assert_array_equal(locations, wanted.local.locations)
  assert (out / "photo.delg_global").exists()


@pytest.mark.slow
def test_a_checkpoint_becomes_each_format(photo, tmp_path):
  model = delf_model.Delf(backbone="compact", use_dim_reduction=True)
  model_checkpoints.save_weights(model, tmp_path / "run" / "delf_weights")
  (tmp_path / "one.pbtxt").write_text(_CONFIG.replace("image_scales: 0.5", ""))
  given = {"form": "local", "config": tmp_path / "one.pbtxt"}
  report = _export(tmp_path / "run", tmp_path / "model", photo, **given)
  assert report.model == "compact, codes of 128 values"
  assert report.compared_with == "the layers of the model"
  assert report.differences.common == 1.0
  assert report.differences.features == 50
  config = zoo.choose(str(tmp_path / "model"))
  assert config.model_path == str(tmp_path / "model")
  found = network_files.read_settings
  for kind in ("onnx", "tflite"):
    pytest.importorskip({"onnx": "tf2onnx", "tflite": "ai_edge_litert"}[kind])
    report = _export(tmp_path / "model", tmp_path / f"m.{kind}", photo)
    assert report.differences.common > 0.99
    assert found(tmp_path / f"m.{kind}").local_size == 128


def test_scales_pooling_and_norm_are_kept(photo, tmp_path, onnx):
  model = tiny_backbone.make()
  exporting.export(
    model,
    tmp_path / "m",
    "global",
    input_scales=[0.5, 1.0],
    pool_type="sum",
    normalize=True,
  )
  report = _export(tmp_path / "m", tmp_path / "m.onnx", photo)
  kept = network_files.read_settings(tmp_path / "m.onnx")
  assert kept.input_scales == (0.5, 1.0)
  assert (kept.pool_type, kept.normalize) == ("sum", True)
  assert report.differences.global_descriptor < 1e-5


def test_what_a_savedmodel_has_settled_is_not_ignored(models, tmp_path, photo):
  pytest.importorskip("tf2onnx")
  scales = {"form": "global", "input_scales": [1.0], "pool_type": "sum"}
  options = {"local": {"iou": 0.5}, "global": scales}
  for form, given in options.items():
    with pytest.raises(
      errors.InputError, match="has its i.* fixed: give a checkpoint"
    ):
      _export(models[form], tmp_path / "m.onnx", photo, **given)


@pytest.mark.parametrize("missing", ["tf2onnx.convert", "onnxruntime"])
def test_a_missing_extra_is_said_before_work(missing, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, missing, None)
  monkeypatch.setattr(export, "load", None)
  (tmp_path / "w.index").touch()
  with pytest.raises(errors.InputError, match=r"`pip install delf\[onnx\]`"):
    _export(tmp_path / "w", tmp_path / "m.onnx", photo=None)


def test_what_is_wrong_is_not_kept(models, photo, tmp_path, monkeypatch, onnx):
  far = export.Differences(photos=1, common=0.5, descriptor=0.1)
  monkeypatch.setattr(export, "compare", lambda *_: far)
  expected = "50.0% of the local features in common, descriptors that differ"
  with pytest.raises(errors.InputError, match=expected):
    _export(models["local"], tmp_path / "out.onnx", photo)
  assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_only_if_asked(models, photo, onnx, tmp_path):
  out = tmp_path / "m.onnx"
  out.write_text("mine")
  with pytest.raises(errors.InputError, match="give a new file"):
    _export(models["local"], out, photo)
  assert out.read_text() == "mine"
  _export(models["local"], out, photo, overwrite=True)
  assert network_files.read_settings(out).form == "local"
  assert os.listdir(tmp_path) == ["m.onnx"]


def test_info_says_what_a_file_is(onnx):
  found = info.info(onnx[0])
  assert found["kind"] == "network (onnx)"
  assert found["form"] == "local_and_global" and found["local_size"] == 12
  assert found["has_configuration"]
  json.dumps(found)


def test_damaged_files_are_named(onnx, tflite, tmp_path):
  for path, _ in (onnx, tflite):
    data = bytearray(path.read_bytes())
    data[40:400] = b"\xff" * 360
    damaged = tmp_path / path.name
    damaged.write_bytes(data)
    config = zoo.choose(str(path))
    config.model_path = str(damaged)
    with pytest.raises(errors.InputError, match=damaged.name):
      extractor.make_extractor(config)


@pytest.mark.parametrize("device", ["gpu:0", "tpu"])
def test_a_device_that_there_is_not(device, tflite):
  with pytest.raises(errors.InputError, match=f"{device!r}: use one of CPU:0"):
    single_file.load(tflite[0], device)


def test_a_missing_extra_says_how_to_get_it(onnx, monkeypatch):
  monkeypatch.setitem(sys.modules, "onnxruntime", None)
  with pytest.raises(errors.InputError, match=r"`pip install delf\[onnx\]`"):
    extractor.make_extractor(zoo.choose(str(onnx[0])))


def test_features_are_matched_by_place_and_scale():
  one = _extract_like([[10, 20], [30, 40], [50, 60]], [1, 2, 3])
  other = _extract_like([[50, 60], [10, 20.1], [30, 40]], [3, 1, 2.5])
  found = export.compare(one, other)
  assert found.features == 3
  assert found.common == pytest.approx(2 / 3)
  assert found.location == pytest.approx(0.1, rel=1e-3)
  assert found.descriptor == 0
  found = export.compare(one, other, near=0.01)
  assert found.common == pytest.approx(1 / 3) and found.location == 0


def _extract_like(locations, scales):
  from delf.formats import features

  scales = np.float32(scales)
  return features.ImageFeatures(
    features.LocalFeatures(
      locations=np.float32(locations),
      scales=scales,
      descriptors=np.stack([scales, np.round(scales)], 1) * 0,
      attention=np.ones(len(scales), np.float32),
    )
  )


def test_checkpoints_say_what_they_are_of(tmp_path):
  model = delf_model.Delf(
    backbone="compact", use_dim_reduction=True, reduced_dimension=7
  )
  model_checkpoints.save_weights(model, tmp_path / "weights")
  options = export.ModelOptions()
  made, words = export.load(tmp_path / "weights", options, ("local",))
  assert made.backbone.name == "backbone" and "codes of 7 values" in words
  for part in ("backbone", "attention", "autoencoder"):
    layers = (getattr(made, part), getattr(model, part))
    for one, other in zip(*(layer.weights for layer in layers), strict=True):
      np.testing.assert_array_equal(one, other)


def test_settings_of_a_run_say_what_its_checkpoint_does_not(tmp_path):
  (tmp_path / "delf_tf2-ckpt").mkdir()
  network = {"block3_strides": False, "gem_power": 4.0}
  (tmp_path / "settings.json").write_text(json.dumps({"network": network}))
  for path in ("delf_weights", "delf_tf2-ckpt", "delf_tf2-ckpt/ckpt-1"):
    assert export._of_run(tmp_path / path) == network
  for text in ("[]", "{", '{"network": {"block3_strides": 1}}'):
    (tmp_path / "settings.json").write_text(text)
    default = {"block3_strides": True, "gem_power": 3.0}
    assert export._of_run(tmp_path / "delf_weights") == default
