import os

import cv2
import numpy as np
import PIL.Image
import pytest
from skimage import data, util

from delf.api import model as api
from delf.base import errors
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python import feature_io


class SiftExtractor:
  """Describes an image by RootSIFT."""

  device = "CPU"

  def extract(self, image, resize_factor=1.0):
    detector = cv2.SIFT_create(400)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    points, descriptors = detector.detectAndCompute(grey, None)
    if not points:
      return features.ImageFeatures(features.LocalFeatures.empty(128))
    sums = descriptors.sum(axis=1, keepdims=True)
    return features.ImageFeatures(
      features.LocalFeatures(
        locations=np.array([point.pt[::-1] for point in points]),
        scales=np.array([point.size for point in points]),
        descriptors=np.sqrt(descriptors / sums),
        attention=np.array([point.response for point in points]),
      )
    )


def _model(rotate=False):
  """A model that is SIFT."""
  model = object.__new__(api.Model)
  model.config = delf_config_pb2.DelfConfig(use_local_features=True)
  model.extractor, model.rotate, model.device = SiftExtractor(), rotate, "CPU"
  return model


def _read(path):
  with PIL.Image.open(path) as image:
    return np.asarray(image)


def _photo():
  return np.ascontiguousarray(data.astronaut()[:320, :400])


def _turned(photo):
  """The same photo, turned by 20 degrees, smaller and noisy."""
  height, width = photo.shape[:2]
  model = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 0.8)
  turned = cv2.warpAffine(photo, model, (width, height))
  noisy = util.random_noise(turned, var=1e-4, rng=0)
  return model, (255 * noisy).round().astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
  """Two images of one scene and one of another; returns their paths."""
  images = {
    "a.png": _photo(),
    "b.png": _turned(_photo())[1],
    "other.png": data.coffee()[:300, :400],
    "plain.png": np.full([200, 300, 3], 90, np.uint8),
  }
  for name, image in images.items():
    PIL.Image.fromarray(image).save(tmp_path / name)
  return [tmp_path / name for name in images]


@pytest.fixture
def feature_files(photos):
  """Feature files of `photos`."""
  paths = []
  for path in photos:
    found = SiftExtractor().extract(_read(path))
    paths.append(path.with_suffix(".delf"))
    feature_io.write_local_features(paths[-1], found.local)
  return paths


def test_two_views_match(photos, tmp_path):
  result = api.match(
    *photos[:2], model=_model(), out=tmp_path / "out" / "ab.png"
  )
  assert result.is_match
  assert result.score > 100
  # The known turn is found: the model maps (x, y).
  np.testing.assert_allclose(
    result.model, _turned(_photo())[0], rtol=0.02, atol=0.6
  )
  with PIL.Image.open(result.picture) as picture:
    assert picture.width > 1000
  assert set(result.seconds) == {"read", "extract", "match", "draw"}
  assert len(result.features[0].local) > 100
  assert result.device == "CPU"


def test_images_may_be_arrays(photos):
  arrays = [_read(path) for path in photos[:2]]
  by_path = api.match(*photos[:2], model=_model())
  by_array = api.match(*arrays, model=_model())
  np.testing.assert_array_equal(by_path.inliers, by_array.inliers)
  assert by_array.picture is None


@pytest.mark.parametrize("other", [2, 3])
def test_what_does_not_match_has_a_picture_too(photos, tmp_path, other):
  result = api.match(
    photos[0],
    photos[other],
    model=_model(),
    out=tmp_path / "a.jpg",
  )
  assert not result.is_match
  assert (tmp_path / "a.jpg").stat().st_size > 1000


@pytest.mark.parametrize("with_images", [True, False])
def test_feature_files_match_as_their_images_do(
  photos, feature_files, tmp_path, with_images
):
  result = api.match(
    *feature_files[:2],
    images=photos[:2] if with_images else None,
    out=tmp_path / "m.png",
  )
  again = api.match(*photos[:2], model=_model())
  assert result.score == again.score
  assert (tmp_path / "m.png").exists()


def test_rotation_is_applied_where_it_is_asked_for(tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  PIL.Image.fromarray(_photo()).save(tmp_path / "a.png", exif=exif)
  as_stored, turned = (
    api.match(
      tmp_path / "a.png",
      np.rot90(_photo(), -1),
      model=_model(rotate),
    ).model
    for rotate in (False, True)
  )
  np.testing.assert_allclose(turned[:, :2], np.eye(2), atol=0.01)
  assert abs(as_stored[0, 0]) < 0.1


@pytest.mark.parametrize(
  ("kind", "words"),
  [
    ("missing", "nothing.delf: no such file"),
    ("cut", "b.delf"),
    ("nan", "b.delf: descriptors must be finite: NaN"),
    ("dimensions", "extract both with one model"),
  ],
)
def test_a_bad_feature_file_leaves_no_picture(
  feature_files, tmp_path, kind, words
):
  bad = feature_files[1]
  found = feature_io.read_local_features(bad)
  descriptors = np.array(found.descriptors)
  if kind == "missing":
    bad = tmp_path / "nothing.delf"
  elif kind == "cut":
    bad.write_bytes(bad.read_bytes()[:-3])
  else:
    if kind == "nan":
      descriptors[2, 3] = np.nan
    else:
      descriptors = descriptors[:, :100]
    feature_io.WriteToFile(
      str(bad), found.locations, found.scales, descriptors, found.attention
    )
  out = tmp_path / "out.png"
  with pytest.raises((errors.InputError, FileNotFoundError), match=words):
    api.match(feature_files[0], bad, out=out)
  assert not out.exists()


def test_a_picture_that_cannot_be_is_refused_first(tmp_path):
  with pytest.raises(errors.InputError, match="picture name"):
    api.match("no.jpg", "such.jpg", out=tmp_path / "a.docx")


def test_a_picture_over_a_folder_is_refused_first(tmp_path):
  with pytest.raises(errors.InputError, match="folder"):
    api.match("no.jpg", "such.jpg", out=_made(tmp_path / "a.png"))


def _made(folder):
  folder.mkdir()
  return folder


def test_a_configuration_without_local_features_is_refused(photos):
  config = delf_config_pb2.DelfConfig(
    model_path="m", use_local_features=False, use_global_features=True
  )
  config.delf_global_config.use_pca = False
  with pytest.raises(errors.InputError, match="use_local_features is false"):
    api.match(*photos[:2], model=config)


def test_the_script_matches_files(feature_files, photos, tmp_path, capsys):
  from absl import flags

  from delf.cli import scripts
  from delf.python.examples import match_images

  def run(second):
    arguments = {
      "image_1_path": photos[0],
      "image_2_path": photos[second],
      "features_1_path": feature_files[0],
      "features_2_path": feature_files[second],
      "output_image": tmp_path / f"{second}.png",
    }
    argv = ["match_images"]
    for name, value in arguments.items():
      argv += [f"--{name}", os.fspath(value)]
    with pytest.raises(SystemExit) as stop:
      scripts.run(match_images.main, match_images.define_flags, argv)
    assert "features_1_path" not in flags.FLAGS
    return stop.value.code, capsys.readouterr()

  status, said = run(1)
  assert not status
  assert "inliers" in said.out
  assert not run(3)[0]
  assert (tmp_path / "3.png").exists()
  feature_files[2].write_bytes(b"no")
  status, said = run(2)
  assert status == 1
  assert "other.delf" in said.err
  assert len(said.err.strip().splitlines()) == 1


def test_features_and_a_photo_need_the_model_of_the_features(photos):
  model = _model()
  extracted = model.extract(photos[0])
  with pytest.raises(errors.InputError, match="need `model`"):
    api.match(extracted, photos[1])
  both = api.match(photos[0], photos[1], model=model)
  assert api.match(extracted, photos[1], model=model) == both
