import json

import numpy as np
import pytest
from google.protobuf import text_format

from delf.base import errors
from delf.formats import configs
from delf.protos import aggregation_config_pb2, delf_config_pb2
from delf.python import utils

_MESSAGES = {
  "DelfConfig": delf_config_pb2.DelfConfig,
  "AggregationConfig": aggregation_config_pb2.AggregationConfig,
}

_GOOD = """
model_path: "model"
image_scales: [0.5, 1.0]
delf_local_config { use_pca: false }
"""


def _check_fields(proto, expected):
  """Compares a message with a golden: `_set` and each field's value."""
  present = {field.name for field, _ in proto.ListFields()}
  assert present == set(expected["_set"])
  for name, value in expected.items():
    if name == "_set":
      continue
    found = getattr(proto, name)
    if isinstance(value, dict) and "number" in value:
      assert found == value["number"]
    elif isinstance(value, dict):
      _check_fields(found, value)
    elif isinstance(value, (list, float)):
      np.testing.assert_array_equal(
        np.float32(list(found) if isinstance(value, list) else found),
        np.float32(value),
      )
    else:
      assert found == value, name


def _cases(goldens):
  return json.loads((goldens / "io_configs.json").read_text())


def test_goldens_of_sample_configurations(goldens):
  checked = 0
  for name, case in _cases(goldens).items():
    if not name.endswith(".pbtxt"):
      continue
    proto = text_format.Parse(case["source"], _MESSAGES[case["message"]]())
    _check_fields(proto, case["fields"])
    assert proto.SerializeToString().hex() == case["wire_hex"], name
    assert text_format.MessageToString(proto) == case["reprint"], name
    checked += 1
  assert checked == 9


def test_goldens_of_defaults(goldens):
  for name, message in _MESSAGES.items():
    _check_fields(message(), _cases(goldens)[f"<default {name}>"]["fields"])


def test_goldens_of_oddities(goldens):
  parsers = {"Parse": text_format.Parse, "Merge": text_format.Merge}
  cases = _cases(goldens)["<oddities>"]
  for name, case in cases.items():
    parse = parsers[name.split("/")[1]]
    message = _MESSAGES[case["message"]]()
    if isinstance(case["result"], dict):
      _check_fields(parse(case["text"], message), case["result"])
      continue
    reason = case["result"].removeprefix("ParseError: ")
    with pytest.raises(text_format.ParseError) as caught:
      parse(case["text"], message)
    # Later releases of protobuf put other words before the same reason.
    assert str(caught.value).split(":")[0] == reason.split(":")[0], name
  assert len(cases) >= 20


def test_configurations_of_the_goldens_are_read(goldens, tmp_path):
  readers = {
    "DelfConfig": configs.read_delf_config,
    "AggregationConfig": configs.read_aggregation_config,
  }
  path = tmp_path / "config.pbtxt"
  for name, case in _cases(goldens).items():
    if name.endswith(".pbtxt"):
      path.write_text(case["source"])
      config = readers[case["message"]](path)
      assert config.SerializeToString().hex() == case["wire_hex"]


def test_good_configuration(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_GOOD)
  config = configs.read_delf_config(path)
  assert config.model_path == "model"
  assert list(config.image_scales) == [0.5, 1.0]


def test_a_field_that_stands_twice_has_the_later_value(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_GOOD + 'model_path: "later"')
  assert configs.read_delf_config(path).model_path == "later"


@pytest.mark.parametrize(
  ("text", "pattern"),
  [
    (_GOOD + "image_scale: 2.0", 'line 5: .*no field named "image_scale"'),
    (_GOOD + "max_image_size: 2.5", "line 5: .*2.5"),
    (_GOOD + "delf_local_config {", "DelfConfig"),
    (_GOOD + 'model_path: "open', "line 5"),
    ("image_scales: 1", "model_path"),
    (
      'model_path: "model" delf_local_config { use_pca: false }',
      "local features need at least one of image_scales",
    ),
    (
      'model_path: "model" use_local_features: false use_global_features: true'
      " delf_global_config { use_pca: false image_scales_ind: 0 }",
      "image_scales_ind needs image_scales to select from",
    ),
    (_GOOD + "image_scales: 0", "image_scales must be positive .*not 0"),
    (_GOOD + "image_scales: -1", "image_scales must be positive .*not -1"),
    (_GOOD + "image_scales: nan", "image_scales must be positive .*not nan"),
    (_GOOD + "image_scales: inf", "image_scales must be positive .*not inf"),
    (_GOOD + "max_image_size: 0", "max_image_size is 0"),
    (
      _GOOD + "use_local_features: false",
      "use_local_features and .* are both off",
    ),
    (_GOOD + "delf_local_config { iou_threshold: 1.5 }", "iou_threshold"),
    (_GOOD + "delf_local_config { iou_threshold: nan }", "iou_threshold"),
    (_GOOD + "delf_local_config { max_feature_num: -1 }", "max_feature_num"),
    (_GOOD + "delf_local_config { score_threshold: nan }", "score_threshold"),
    (
      _GOOD + "delf_local_config { use_pca: true }",
      "delf_local_config.pca_parameters.mean_path",
    ),
    (
      _GOOD
      + "delf_local_config { use_pca: true pca_parameters {"
      + ' mean_path: "m" pca_dim: 4 } }',
      "projection_matrix_path",
    ),
    (
      _GOOD
      + "delf_local_config { use_pca: true pca_parameters {"
      + ' mean_path: "m" projection_matrix_path: "p" } }',
      "delf_local_config.pca_parameters.pca_dim must be over 0, not 0",
    ),
    (
      _GOOD
      + "delf_local_config { use_pca: true pca_parameters { pca_dim: 4"
      + ' mean_path: "m" projection_matrix_path: "p" use_whitening: true } }',
      "pca_variances_path",
    ),
    (
      _GOOD + "use_global_features: true",
      "delf_global_config.pca_parameters.mean_path",
    ),
    (
      _GOOD
      + "use_global_features: true"
      + " delf_global_config { use_pca: false image_scales_ind: 2 }",
      "image_scales_ind must be from 0 to 1, for 2 image_scales, not 2",
    ),
    (
      _GOOD
      + "use_global_features: true"
      + " delf_global_config { use_pca: false image_scales_ind: -1 }",
      "image_scales_ind must be from 0 to 1, for 2 image_scales, not -1",
    ),
    ("\0\1\2", "not a valid DelfConfig"),
  ],
)
def test_bad_configurations(text, pattern, tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(text)
  with pytest.raises(errors.InputError, match=pattern) as caught:
    configs.read_delf_config(path)
  assert str(caught.value).startswith(f"{path}: ")
  assert "\n" not in str(caught.value)


def test_what_is_off_is_not_checked():
  config = text_format.Parse(
    _GOOD + "delf_global_config { image_scales_ind: 9 use_pca: true }",
    delf_config_pb2.DelfConfig(),
  )
  configs.check_delf_config(config)


def test_global_models_may_have_scales_of_their_own():
  config = text_format.Parse(
    'model_path: "model" use_local_features: false use_global_features: true'
    " delf_global_config { use_pca: false }",
    delf_config_pb2.DelfConfig(),
  )
  configs.check_delf_config(config)


@pytest.mark.parametrize(
  "limits", ["min_image_size: 0", "min_image_size: -2", "max_image_size: -7"]
)
def test_sizes_that_are_no_limit(limits):
  config = text_format.Parse(_GOOD + limits, delf_config_pb2.DelfConfig())
  configs.check_delf_config(config)
  image = np.zeros([11, 12, 3], dtype=np.uint8)
  assert utils.ResizeImage(image, config)[0].shape == image.shape


@pytest.mark.parametrize(
  ("text", "pattern"),
  [
    ("aggregation_type: INVALID", "aggregation_type"),
    ("codebook_size: 0", "codebook_size"),
    ("feature_dimensionality: -1", "feature_dimensionality"),
    ("num_assignments: 0", "num_assignments"),
    (
      "num_assignments: 9 codebook_size: 8",
      "num_assignments is 9, but codebook_size only 8",
    ),
    ('codebook_path: ""', "codebook_path"),
    ("foo: 1", 'line 1: .*no field named "foo"'),
  ],
)
def test_bad_aggregation_configurations(text, pattern, tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(f'codebook_path: "codebook" {text}')
  with pytest.raises(errors.InputError, match=pattern):
    configs.read_aggregation_config(path)


def test_files_that_are_missing_or_binary(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.pbtxt"):
    configs.read_delf_config(tmp_path / "none.pbtxt")
  (tmp_path / "binary.pbtxt").write_bytes(b"\xff\xfe\x80")
  with pytest.raises(errors.InputError, match="binary"):
    configs.read_delf_config(tmp_path / "binary.pbtxt")
