import json

import pytest
from google.protobuf import text_format

from delf.extraction import extract
from delf.protos import delf_config_pb2
from delf.python import datum_io

_BASE = """
image_scales: 0.5 image_scales: 1.0
use_local_features: true use_global_features: true
delf_local_config { use_pca: false max_feature_num: 10 }
delf_global_config { use_pca: false }
"""


def _describe(more, base=_BASE):
  config = text_format.Merge(base, delf_config_pb2.DelfConfig())
  text_format.Merge(more, config)
  return extract.describe(config, None, False)


def _differences(more, other=""):
  first, second = _describe(more), _describe(other)
  return {
    head for head in first if extract.difference(first[head], second[head])
  }


@pytest.mark.parametrize(
  ("more", "other"),
  [
    ("min_image_size: -1 max_image_size: -1 use_square_images: false", ""),
    ("is_tf2_exported: true", ""),
    ("min_image_size: 0 max_image_size: -7", ""),
    ("delf_local_config { score_threshold: 100.0 }", ""),
    ("delf_local_config { iou_threshold: 0.5 layer_name: 'x' }", ""),
    ("delf_local_config { pca_parameters { mean_path: 'none' } }", ""),
    ("delf_global_config { image_scales_ind: [1, 0, 1] }", ""),
  ],
)
def test_what_means_the_same_is_the_same(more, other):
  assert _differences(more, other) == set()


@pytest.mark.parametrize(
  ("more", "heads"),
  [
    ("max_image_size: 40", {"local", "global"}),
    ("image_scales: 2.0", {"local", "global"}),
    ("delf_local_config { max_feature_num: 9 }", {"local"}),
    ("delf_local_config { use_resized_coordinates: true }", {"local"}),
    ("delf_global_config { image_scales_ind: 1 }", {"global"}),
  ],
)
def test_what_differs_differs_for_the_heads_it_is_of(more, heads):
  assert _differences(more) == heads


def test_only_heads_that_are_on_are_described():
  assert set(_describe("use_global_features: false")) == {"local"}
  assert set(_describe("use_local_features: false")) == {"global"}


def test_pca_counts_by_content(tmp_path):
  for name, value in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
    datum_io.WriteToFile([value], str(tmp_path / name))

  def more(name, whitening=False):
    return (
      "delf_local_config { use_pca: true pca_parameters {"
      f" mean_path: '{tmp_path}/{name}' projection_matrix_path: '{tmp_path}/a'"
      f" pca_variances_path: '{tmp_path}/{'a' if whitening else 'none'}'"
      f" use_whitening: {str(whitening).lower()} pca_dim: 1 }} }}"
    )

  assert _differences(more("a"), more("b")) == set()
  assert _differences(more("a"), more("c")) == {"local"}
  assert _differences(more("a"), more("a", whitening=True)) == {"local"}
  with pytest.raises(FileNotFoundError, match="none"):
    _describe(more("none"))


@pytest.mark.parametrize(
  "text",
  [
    "",
    "[]",
    "[" * 100_000,
    '{"local": 5}',
    '{"local": {"model": "a"}}',
    '{"local": {"model": "", "apply_rotation": 0, "files": {}, "settings": 1}}',
  ],
  ids=range(6),
)
def test_what_is_no_record_is_none(text, tmp_path):
  path = tmp_path / "extraction.json"
  assert extract.read(path) is None
  path.write_text(text)
  assert extract.read(path) is None


def test_a_record_is_read(tmp_path):
  found = _describe("")
  path = tmp_path / "extraction.json"
  path.write_text(json.dumps(found))
  assert extract.read(path) == found
