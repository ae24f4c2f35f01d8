import json
import pathlib

import numpy as np
import pytest

from delf.base import errors
from delf.python.training import global_features_utils as utils


@pytest.fixture(scope="module")
def golden(goldens):
  return json.loads((goldens / "train_meta.json").read_text())


def test_average_meter(golden):
  meter, found = utils.AverageMeter(), []
  for value, number in ((1.0, 1), (3.0, 2), (0.0, 5)):
    meter.update(value, number)
    found.append([meter.val, meter.avg, meter.sum, meter.count])
  np.testing.assert_allclose(found, golden["AverageMeter"])
  meter.reset()
  assert (meter.val, meter.avg, meter.sum, meter.count) == (0, 0, 0, 0)


def test_times_are_as_those_of_the_original(golden):
  for seconds, expected in golden["htime"].items():
    assert utils.htime(float(seconds)) == expected


def test_directory_is_named_as_by_the_original(golden, tmp_path):
  options = {
    "training_dataset": "retrieval-SfM-120k",
    "arch": "ResNet101",
    "pool": "gem",
    "whitening": True,
    "pretrained": False,
    "loss": "triplet",
    "loss_margin": 0.85,
    "optimizer": "adam",
    "lr": 1e-6,
    "weight_decay": 1e-6,
    "neg_num": 5,
    "query_size": 2000,
    "pool_size": 22000,
    "batch_size": 5,
    "update_every": 1,
    "image_size": 362,
    "directory": str(tmp_path),
  }
  path = pathlib.Path(utils.create_model_directory(**options))
  assert path.parent == tmp_path
  assert path.is_dir()
  assert path.name == golden["create_model_directory"]
  plain = options | {"whitening": False, "pretrained": True}
  name = pathlib.Path(utils.create_model_directory(**plain)).name
  assert name.startswith("retrieval-SfM-120k_ResNet101_gem_triplet_m0.85_adam")


def test_metrics_are_printed_and_returned(capsys):
  truth = [{"easy": [0], "hard": [1], "junk": [2]}]
  found = utils.compute_metrics_and_print(
    "roxford5k", np.array([[0, 3, 2, 1]]), truth, [1, 2], log=False
  )
  easy, medium, hard = found
  assert easy[0] == 1.0
  np.testing.assert_allclose(medium[0], (1 + (0.5 + 2 / 3) / 2) / 2)
  assert hard[0] < 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith(">> roxford5k: mAP E: 100.0, M: 79.17")
  assert "mP@k[1, 2]" in lines[1]


def test_another_data_set_is_refused():
  with pytest.raises(errors.InputError, match="roxford5k"):
    utils.compute_metrics_and_print("oxford5k", np.array([[0]]), [{}])


def test_messages_may_share_a_line(capsys):
  utils.debug_and_log("a", log=False, debug_on_the_same_line=True)
  utils.debug_and_log("b", log=False)
  utils.debug_and_log("c", debug=False, log=False)
  assert capsys.readouterr().out == "ab\n"


def test_keras_models():
  names = utils.get_standard_keras_models()
  assert names == sorted(names)
  assert {"ResNet101", "VGG16", "DenseNet121", "EfficientNetB7"} <= set(names)
