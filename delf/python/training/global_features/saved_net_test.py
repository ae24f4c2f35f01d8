import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf.python import config_io, errors, whiten
from delf.python.datasets import utils
from delf.python.datasets.sfm120k import sfm120k
from delf.python.inference import extractor
from delf.python.training.global_features import fitting, saved_net
from tests import tiny_tuples


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  root = tmp_path_factory.mktemp("run")
  tiny_tuples.write(root)
  options = tiny_tuples.options(
    root,
    epochs=1,
    whitening=sfm120k.NAME,
    scales=(1.0, 0.5),
    tests=(),
    pooling="spoc",
  )
  return fitting.fit(options, tiny_tuples.TinyNet).folder


def _photo():
  random = np.random.default_rng(5)
  small = random.integers(0, 256, [6, 8, 3], np.uint8)
  return Image.fromarray(small).resize((32, 24))


def test_extraction_gives_what_the_run_gave(run, tmp_path):
  size = saved_net.export(run, tmp_path / "model", make_net=tiny_tuples.TinyNet)
  assert size == 6
  config = config_io.read_delf_config(tmp_path / "model" / "config.pbtxt")
  assert list(config.image_scales) == [1.0, 0.5]
  assert config.max_image_size == 32
  found = extractor.make_extractor(config).extract(np.array(_photo()))
  _photo().save(tmp_path / "photo.png")
  image = utils.default_loader(tmp_path / "photo.png", 32)[None]
  net, _ = saved_net.load(run, tiny_tuples.TinyNet)
  vectors = np.concatenate(
    [net(image), net(tf.image.resize(image, [12, 16]))]
  ).T
  whitening = whiten.read_whitening(run / fitting.WHITENING)
  expected = whiten.apply_whitening(vectors, *whitening).sum(axis=1)
  expected /= np.linalg.norm(expected)
  np.testing.assert_allclose(found.global_descriptor, expected, atol=1e-4)


def test_an_export_is_not_replaced_unasked(run, tmp_path):
  for overwrite in (False, True):
    saved_net.export(run, tmp_path / "model", overwrite, tiny_tuples.TinyNet)
  with pytest.raises(errors.InputError, match="finished export"):
    saved_net.export(run, tmp_path / "model", make_net=tiny_tuples.TinyNet)


def test_runs_that_cannot_be_exported(run, tmp_path):
  with pytest.raises(FileNotFoundError, match="settings.json"):
    saved_net.load(tmp_path)
  (tmp_path / "settings.json").write_bytes((run / "settings.json").read_bytes())
  with pytest.raises(FileNotFoundError, match="best-"):
    saved_net.load(tmp_path, tiny_tuples.TinyNet)
