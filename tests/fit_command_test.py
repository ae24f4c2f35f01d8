"""`delf fit`, from photos and from features, through a model to files."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest
from skimage import data

from delf.aggregation import visual_words
from delf.cli import main
from delf.formats import configs
from delf.python import whiten
from tests.stand_ins import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "tiny"
  tiny_model.save(folder)
  return str(folder)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folder of eight folders of three parts of a photo each."""
  folder = tmp_path_factory.mktemp("photos")
  photo = data.astronaut()
  for i in range(24):
    path = folder / f"{i // 3}" / f"{i % 3}.png"
    path.parent.mkdir(exist_ok=True)
    x, y = 40 * (i // 3), 60 * (i % 3)
    PIL.Image.fromarray(photo[y : y + 200, x : x + 220]).save(path)
  return folder


def _fit(capsys, kind, *argv):
  """Returns the status, the JSON document and what was said of errors."""
  status = main.main(["fit", kind, *map(str, argv), "--json"])
  out, err = capsys.readouterr()
  return status, json.loads(out) if out else None, err


def test_a_codebook_of_photos(photos, model, tmp_path, capsys):
  out = tmp_path / "words" / "codebook"
  argv = ["codebook", photos, "--out", out, "--model", model, "--words", 8]
  status, report, err = _fit(capsys, *argv, "--iterations", 3)
  assert status == 0, err
  assert visual_words.read_codebook(str(out)).shape == (8, report["dimension"])
  assert report["num_clusters"] == 8
  assert report["features"] <= 8 * 256
  assert len(report["objectives"]) <= 3
  features = f"{out}_features"
  # The same from the features that were extracted on the way.
  other = tmp_path / "other"
  argv = ["codebook", features, "--out", other, "--words", 8]
  assert _fit(capsys, *argv, "--iterations", 3)[0] == 0
  np.testing.assert_array_equal(
    visual_words.read_codebook(str(other)), visual_words.read_codebook(str(out))
  )


def test_a_pca_of_photos_that_extraction_applies(
  photos, model, tmp_path, capsys
):
  out = tmp_path / "my_pca"
  argv = ["pca", photos, "--out", out, "--model", model, "--dim", 3]
  status, report, err = _fit(capsys, *argv)
  assert status == 0, err
  assert report["pca_dim"] == 3
  config = configs.read_delf_config(pathlib.Path(model) / "config.pbtxt")
  config.model_path = model
  config.use_global_features = False
  local = config.delf_local_config
  local.use_pca = True
  text = f"use_pca: true pca_parameters {{ {report['pca_parameters']} }}"
  path = tmp_path / "with_pca.pbtxt"
  path.write_text(
    f'model_path: "{model}" image_scales: 1.0 is_tf2_exported: true '
    f"delf_local_config {{ {text} score_threshold: 0 }}"
  )
  extract = ["extract", str(photos / "0"), "--config", str(path)]
  assert main.main([*extract, "--out", str(tmp_path / "f")]) == 0
  capsys.readouterr()
  assert main.main(["info", str(tmp_path / "f" / "0.delf"), "--json"]) == 0
  (described,) = json.loads(capsys.readouterr().out)

  assert described["dimensions"] == 3


def test_a_whitening_of_folders_of_photos(photos, model, tmp_path, capsys):
  out = tmp_path / "my.whitening"
  argv = ["whitening", photos, "--out", out, "--model", model]
  status, report, err = _fit(capsys, *argv)
  assert status == 0, err
  mean, projection = whiten.read_whitening(out)
  assert projection.shape == (report["dimension"], report["dimension"])
  assert report["pairs"] == 24
  # Said in words, too, and without the photos once they are extracted.
  argv = ["fit", "whitening", f"{out}_features", "--out", str(tmp_path / "w2")]
  assert main.main(argv) == 0
  assert "from 24 pairs" in capsys.readouterr().out
  np.testing.assert_array_equal(
    whiten.read_whitening(tmp_path / "w2")[1], projection
  )


def test_a_photo_that_fails_is_named(model, tmp_path, capsys):
  folder = tmp_path / "photos"
  folder.mkdir()
  PIL.Image.fromarray(data.astronaut()[:200, :200]).save(folder / "a.png")
  (folder / "b.png").write_bytes(b"no image")
  argv = ["codebook", folder, "--out", tmp_path / "c", "--model", model]
  status, report, err = _fit(capsys, *argv, "--words", 2, "--iterations", 1)
  assert status == 1
  assert [f["path"] for f in report["failed"]] == [str(folder / "b.png")]
  assert err.startswith(f"delf: error: {folder / 'b.png'}")
  assert report["num_clusters"] == 2


def test_advice_where_samples_are_few(model, photos, tmp_path, capsys):
  argv = ["fit", "codebook", str(photos / "0"), "--out", str(tmp_path / "c")]
  argv += ["--model", model, "--words", "40", "--iterations", "1"]
  assert main.main(argv) == 0
  assert "advice: 2560 features or more" in capsys.readouterr().out
