import argparse
import os

import PIL.Image
import pytest

from delf.python.cli import extract, main
from delf.python.pipelines import settings

_CONFIG = """\
model_path: "somewhere"
image_scales: 1.0
max_image_size: 900
use_global_features: true
delf_local_config { use_pca: false }
delf_global_config { use_pca: false }
"""


@pytest.fixture
def folder(tmp_path):
  for name in ("b.jpg", "a.png", "deep/a.png"):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (4, 4)).save(path)
  return tmp_path / "photos"


def _parse(*words):
  parser = argparse.ArgumentParser()
  extract.add_arguments(parser)
  return parser.parse_args([*map(str, words), "--out", "out"])


def test_names_with_two_extensions(tmp_path):
  for name in ("a.jpg", "a.png", "a.jpg.png"):
    (tmp_path / name).write_bytes(b"")
  images, names = extract._find([str(tmp_path)])
  assert sorted(names) == ["a.jpg", "a.jpg.png", "a.png"]
  assert len(set(zip(images, names, strict=True))) == 3


def test_an_image_that_is_found_twice_is_done_once(tmp_path):
  (tmp_path / "x").mkdir()
  (tmp_path / "x" / "a.jpg").write_bytes(b"")
  images, names = extract._find([str(tmp_path), str(tmp_path / "x")])
  assert (len(images), names) == (1, [os.path.join("x", "a")])


def test_images_of_a_folder_keep_their_sub_folder(folder):
  images, names = extract._find([str(folder)])
  assert names == ["a", "b", "deep/a"]
  assert images[2] == str(folder / "deep" / "a.png")


def test_images_of_patterns_and_lists_go_by_base_name(folder, tmp_path):
  images, names = extract._find([str(folder / "*.jpg")])
  assert names == ["b"]
  listed = tmp_path / "list.txt"
  listed.write_text(f"{folder}/deep/a.png\n{folder}/b.jpg\n")
  images, names = extract._find([str(listed)])
  assert sorted(names) == ["a", "b"]
  assert len(images) == 2


@pytest.mark.parametrize(
  ("sources", "expected"),
  [
    (["photos"], {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"}),
    (["photos/*.jpg"], {"a.jpg": "a", "b.jpg": "b"}),
    (
      ["photos/**/a.*"],
      {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"},
    ),
    (["photos/b.jpg", "other"], {"b.jpg": "b", "../other/c.jpg": "c"}),
    (
      ["photos/deep", "other", "photos/a.jpg"],
      {
        "deep/a.png": "photos/deep/a",
        "a.jpg": "photos/a",
        "../other/c.jpg": "c",
      },
    ),
  ],
)
def test_equal_names_are_told_apart(
  folder, monkeypatch, tmp_path, sources, expected
):
  PIL.Image.new("RGB", (4, 4)).save(folder / "a.jpg")
  (tmp_path / "other").mkdir()
  PIL.Image.new("RGB", (4, 4)).save(tmp_path / "other" / "c.jpg")
  monkeypatch.chdir(tmp_path)
  found = dict(zip(*extract._find(sources), strict=True))
  found = {
    os.path.relpath(path, "photos"): name for path, name in found.items()
  }
  for path, name in expected.items():
    assert found[path] == name
  assert len(set(found.values())) == len(found)


def test_equal_names_of_remote_images_are_told_apart(tmp_path):
  listed = tmp_path / "list.txt"
  listed.write_text(
    "gs://bucket/x/a.jpg\ngs://bucket/y/a.jpg\ngs://bucket/b.png"
  )
  assert extract._find([str(listed)])[1] == ["b", "x/a", "y/a"]


def test_options_change_the_configuration(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_CONFIG)
  config = extract._config(_parse("x", "--config", path))
  assert config.use_local_features
  assert config.use_global_features
  assert config.max_image_size == 900
  more = ("--max-size", 300, "--max-features", 20, "--local-only")
  config = extract._config(_parse("x", "--config", path, *more))
  assert config.max_image_size == 300
  assert config.delf_local_config.max_feature_num == 20
  assert not config.use_global_features
  config = extract._config(
    _parse("x", "--config", path, "--global-only", "--model", "m")
  )
  assert not config.use_local_features
  assert config.use_global_features
  assert config.model_path == "m"


def test_settings_of_a_model(tmp_path):
  path = tmp_path / "config.pbtxt"
  path.write_text(_CONFIG)
  config = settings.choose(str(tmp_path))
  assert config.model_path == str(tmp_path)
  assert config.max_image_size == 900
  config = settings.choose("r50delg_gldv2clean")
  assert config.max_image_size == 1024
  path.unlink()
  with pytest.raises(ValueError, match="config.pbtxt"):
    settings.choose(str(tmp_path))
  with pytest.raises(ValueError, match="delf models"):
    settings.choose("no such model at all")


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
