import argparse

import pytest

from delf.api import model
from delf.cli import arguments, extract, main
from delf.inference import zoo

_CONFIG = """\
model_path: "somewhere"
image_scales: 1.0
max_image_size: 900
use_global_features: true
delf_local_config { use_pca: false }
delf_global_config { use_pca: false }
"""


def _parse(*words):
  parser = argparse.ArgumentParser()
  extract.add_arguments(parser)
  return parser.parse_args([*map(str, words), "--out", "out"])


def _config(args):
  return arguments.call(model.configure, args)


def test_options_change_the_configuration(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_CONFIG)
  config = _config(_parse("x", "--config", path))
  assert config.use_local_features
  assert config.use_global_features
  assert config.max_image_size == 900
  more = ("--max-size", 300, "--max-features", 20, "--local-only")
  config = _config(_parse("x", "--config", path, *more))
  assert config.max_image_size == 300
  assert config.delf_local_config.max_feature_num == 20
  assert not config.use_global_features
  config = _config(
    _parse("x", "--config", path, "--global-only", "--model", "m")
  )
  assert not config.use_local_features
  assert config.use_global_features
  assert config.model_path == "m"


def test_settings_of_a_model(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_CONFIG)
  config = zoo.choose(str(tmp_path))
  assert config.model_path == str(tmp_path)
  assert config.max_image_size == 900
  config = zoo.choose("r50delg_gldv2clean")
  assert config.max_image_size == 1024
  path.unlink()
  with pytest.raises(ValueError, match="config.pbtxt"):
    zoo.choose(str(tmp_path))
  with pytest.raises(ValueError, match="delf models"):
    zoo.choose("no such model at all")


@pytest.mark.parametrize(
  "words",
  [
    ["extract"],
    ["extract", "photos"],
    ["extract", "photos", "--out", "o", "--max-size", "0"],
    ["extract", "photos", "--out", "o", "--workers", "-3"],
    ["extract", "photos", "--out", "o", "--local-only", "--global-only"],
  ],
)
def test_usage(words, capsys):
  with pytest.raises(SystemExit) as end:
    main.main(words)
  assert end.value.code == 2
  assert "usage: delf extract" in capsys.readouterr().err


def test_help_has_examples(capsys):
  with pytest.raises(SystemExit) as end:
    main.main(["extract", "--help"])
  assert end.value.code == 0
  assert "delf extract photos/ --out features/" in capsys.readouterr().out
