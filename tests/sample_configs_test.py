"""The sample configurations parse and say what the original's do."""

import json
import pathlib

import pytest
from google.protobuf import text_format

from delf.inference import saved_model, zoo
from delf.protos import aggregation_config_pb2, delf_config_pb2

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MESSAGES = {
  "DelfConfig": delf_config_pb2.DelfConfig,
  "AggregationConfig": aggregation_config_pb2.AggregationConfig,
}
_PYTHON = "delf/python"
_SAMPLES = [
  f"{_PYTHON}/datasets/google_landmarks_dataset/rn101_af_gldv2clean_config.pbtxt",
  f"{_PYTHON}/delg/r101delg_gld_config.pbtxt",
  f"{_PYTHON}/delg/r101delg_gldv2clean_config.pbtxt",
  f"{_PYTHON}/delg/r50delg_gld_config.pbtxt",
  f"{_PYTHON}/delg/r50delg_gldv2clean_config.pbtxt",
  f"{_PYTHON}/detect_to_retrieve/delf_gld_config.pbtxt",
  f"{_PYTHON}/detect_to_retrieve/index_aggregation_config.pbtxt",
  f"{_PYTHON}/detect_to_retrieve/query_aggregation_config.pbtxt",
  f"{_PYTHON}/examples/delf_config_example.pbtxt",
]


def _parse(path, message):
  return text_format.Parse((_ROOT / path).read_text(), _MESSAGES[message]())


@pytest.mark.parametrize("path", _SAMPLES)
def test_says_what_the_original_says(path, goldens):
  recorded = json.loads((goldens / "io_configs.json").read_text())[path]
  original = _MESSAGES[recorded["message"]]()
  text_format.Parse(recorded["source"], original)
  ours = _parse(path, recorded["message"])
  assert ours == original
  assert ours.SerializeToString().hex() == recorded["wire_hex"]


def test_no_recorded_sample_is_missing(goldens):
  recorded = json.loads((goldens / "io_configs.json").read_text())
  assert sorted(_SAMPLES) == sorted(n for n in recorded if n.endswith("pbtxt"))


@pytest.mark.parametrize(
  ("folder", "local", "whole"),
  [
    ("examples", True, False),
    ("delg", True, True),
    ("datasets/google_landmarks_dataset", False, True),
  ],
)
def test_the_compact_samples_ask_for_the_embedded_model(folder, local, whole):
  path = f"{_PYTHON}/{folder}/delf_compact_config.pbtxt"
  config = _parse(path, "DelfConfig")
  own = zoo.default_config("delf-compact")
  assert config.model_path == own.model_path == "delf-compact"
  assert config.max_image_size == own.max_image_size
  assert config.use_local_features == local
  assert config.use_global_features == whole
  if local:
    assert config.image_scales == own.image_scales
    assert config.delf_local_config == own.delf_local_config
  if whole:
    assert not config.delf_global_config.use_pca
    assert _global_scales(config) == _global_scales(own)


def _global_scales(config):
  chosen = config.delf_global_config.image_scales_ind
  return [config.image_scales[i] for i in chosen] or list(config.image_scales)


def test_the_compact_aggregation_is_of_its_dimensions():
  path = f"{_PYTHON}/detect_to_retrieve/delf_compact_aggregation_config.pbtxt"
  config = _parse(path, "AggregationConfig")
  model = saved_model.load(zoo.resolve("delf-compact"), "cpu")
  assert config.feature_dimensionality == model.outputs["features"].shape[-1]
  assert not config.use_regional_aggregation
