import json

import numpy as np
import PIL.Image
import pytest

from delf.base import errors, files
from delf.extraction import engine, extract
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python import feature_io, utils


class _Sizes:
  """Notes what it is given; its one feature is the size after resizing."""

  device = "CPU"

  def __init__(self, config):
    self._config = config
    self.seen = []

  def extract(self, image, resize_factor=1.0):
    self.seen.append((image.shape[:2], resize_factor))
    resized, _ = utils.ResizeImage(image, self._config, resize_factor)
    return features.ImageFeatures(
      features.LocalFeatures(
        locations=np.array([resized.shape[:2]], np.float32),
        scales=np.ones([1], np.float32),
        descriptors=np.array([resized.mean(axis=(0, 1))], np.float32),
        attention=np.ones([1], np.float32),
      )
    )

  def extract_batch(self, images, resize_factor=1.0):
    return [self.extract(image, resize_factor) for image in images]


@pytest.fixture
def config():
  return delf_config_pb2.DelfConfig(
    image_scales=[1.0], use_local_features=True, max_image_size=100
  )


@pytest.fixture
def photos(tmp_path):
  generator = np.random.default_rng(5)
  paths = []
  for i in range(3):
    pixels = generator.integers(0, 256, [160, 200, 3], dtype=np.uint8)
    paths.append(str(tmp_path / f"{i}.png"))
    PIL.Image.fromarray(pixels).save(paths[-1])
  return paths


def _extract(photos, config, folder, crops, **options):
  extractor = _Sizes(config)
  report = extract.extract_to_files(
    photos, config, folder, crops=crops, extractor=extractor, **options
  )
  return report, extractor.seen


def _sizes(folder, number):
  return [
    tuple(feature_io.ReadFromFile(str(folder / f"{i}.delf"))[0][0])
    for i in range(number)
  ]


def test_parts_with_and_without_scaled_limits(photos, config, tmp_path):
  box = (10, 20, 90, 50)
  crops = [engine.Crop(box, True), engine.Crop(box), None]
  report, seen = _extract(photos, config, tmp_path / "out", crops)
  assert not report.failed
  assert seen == [((30, 80), 80 / 200), ((30, 80), 1.0), ((160, 200), 1.0)]
  # 80 pixels to 100 * 80 / 200; to 100, so not at all; 200 pixels to 100.
  assert _sizes(tmp_path / "out", 3) == [(15, 40), (30, 80), (80, 100)]


def test_batches_hold_parts_of_one_factor(photos, config, tmp_path):
  crops = [
    engine.Crop((0, 0, 80, 40), True),
    engine.Crop((0, 0, 80, 40), False),
    engine.Crop((5, 5, 85, 45), True),
  ]
  config.max_image_size = 50
  _extract(photos, config, tmp_path / "plain", crops)
  _extract(photos, config, tmp_path / "batch", crops, batch_size=3)
  assert _sizes(tmp_path / "plain", 3) == [(10, 20), (25, 50), (10, 20)]
  assert _sizes(tmp_path / "batch", 3) == _sizes(tmp_path / "plain", 3)


def test_record_has_the_part_and_another_one_is_done_again(
  photos, config, tmp_path
):
  out = tmp_path / "out"
  crops = [engine.Crop((0, 0, 80, 40.5), True)] * 2 + [None]
  assert len(_extract(photos, config, out, crops)[0].done) == 3
  lines = (out / extract.PHOTOS).read_text().splitlines()
  assert [json.loads(line).get("crop") for line in lines] == [
    {"box": [0.0, 0.0, 80.0, 40.5], "scale_limits": True}
  ] * 2 + [None]
  assert len(_extract(photos, config, out, crops)[0].skipped) == 3
  other = [crops[0], engine.Crop(crops[0].box), engine.Crop((0, 0, 9, 9))]
  assert _extract(photos, config, out, other)[0].done == tuple(photos[1:])
  # All of each photo, as of a plain extraction.
  assert _extract(photos, config, out, None)[0].done == tuple(photos)


def test_box_outside_of_its_photo_is_reported(photos, config, tmp_path):
  crops = [None, engine.Crop((500, 500, 600, 600)), None]
  report, _ = _extract(photos, config, tmp_path / "out", crops)
  assert report.done == (photos[0], photos[2])
  (failure,) = report.failed
  assert failure.path == photos[1]
  assert "is not in an image of 200 x 160 pixels" in failure.reason
  assert report.exit_status == 1


def test_two_parts_need_two_names(photos, config, tmp_path):
  crops = [engine.Crop((0, 0, 9, 9)), engine.Crop((0, 0, 9, 8))]
  with pytest.raises(errors.InputError, match="same output name"):
    _extract([photos[0]] * 2, config, tmp_path / "out", crops)
  report, _ = _extract(
    [photos[0]] * 2, config, tmp_path / "out", crops, names=["0", "1"]
  )
  assert len(report.done) == 2
  assert _sizes(tmp_path / "out", 2) == [(9, 9), (8, 9)]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", "a/../../x"])
def test_names_stay_in_the_folder(photos, config, tmp_path, name):
  with pytest.raises(errors.InputError, match="below the output folder"):
    _extract(photos[:1], config, tmp_path / "out", None, names=[name])


def test_sizes_of_a_real_query(shared_data, config, tmp_path):
  folder = shared_data / "mini_roxford5k"
  truth = json.loads((folder / "gnd.json").read_text())
  name, box = truth["qimlist"][0], truth["gnd"][0]["bbx"]
  path = str(folder / "jpg" / f"{name}.jpg")
  config.max_image_size = 512
  found = {}
  for scale_limits in (True, False):
    out = tmp_path / str(scale_limits)
    _extract([path], config, out, [engine.Crop(box, scale_limits)])
    local = feature_io.ReadFromFile(str(out / f"{name}{files.DELF}"))
    found[scale_limits] = tuple(local[0][0])
  left, upper, right, lower = map(round, box)
  height, width = lower - upper, right - left
  with PIL.Image.open(path) as photo:
    limit = 512 * max(height, width) / max(photo.size)
  scale = limit / max(height, width)
  assert found[True] == (round(height * scale), round(width * scale))
  scale = 512 / max(height, width)
  assert found[False] == (round(height * scale), round(width * scale))
