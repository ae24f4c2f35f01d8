"""The sample configurations parse and say what the original's do."""

import json
import pathlib

import pytest
from google.protobuf import text_format

from delf.protos import aggregation_config_pb2, delf_config_pb2
from delf.python.inference import zoo

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


def test_the_compact_sample_asks_for_the_embedded_model():
  config = _parse(f"{_PYTHON}/examples/delf_compact_config.pbtxt", "DelfConfig")
  own = zoo.default_config("delf-compact")
  assert config.model_path == own.model_path == "delf-compact"
  assert config.image_scales == own.image_scales
  assert config.delf_local_config == own.delf_local_config
  assert config.max_image_size == own.max_image_size
  assert config.use_local_features
  assert not config.delf_local_config.use_pca
