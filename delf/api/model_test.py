import io
import pickle

import numpy as np
import PIL.Image
import pytest
from skimage import data

import delf
from delf.base import errors
from delf.formats import configs
from tests.stand_ins import tiny_model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny_model.save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(config):
  return delf.load(config.parent)


@pytest.fixture
def photo(tmp_path):
  """A photo that lies on its side, as its EXIF orientation says."""
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  image = PIL.Image.fromarray(data.astronaut()[:200, :160])
  image.save(tmp_path / "a.png", exif=exif)
  return tmp_path / "a.png"


def test_each_way_to_name_a_model(config, model, photo):
  expected = model.extract(photo)
  for given in (
    delf.load(str(config.parent)),
    delf.load(config=config),
    delf.load(configs.read_delf_config(config)),
  ):
    assert given.extract(photo) == expected
  with pytest.raises(errors.InputError, match="delf models"):
    delf.load("no such model")


def test_options_change_the_configuration(config, photo):
  model = delf.load(config.parent, max_features=7, max_size=99, local_only=True)
  extracted = model.extract(photo)
  assert len(extracted.local) == 7 and extracted.global_descriptor is None
  assert model.config.max_image_size == 99
  assert "local features, on" in repr(model)
  model = delf.load(config.parent, global_only=True)
  assert model.extract(photo).local is None
  with pytest.raises(errors.InputError, match="exclude each other"):
    delf.load(config.parent, local_only=True, global_only=True)


def test_each_form_of_a_photo(model, photo):
  by_path = model.extract(photo)
  assert by_path.path == str(photo) and by_path.image is None
  content = photo.read_bytes()
  for form in (
    str(photo),
    content,
    io.BytesIO(content),
    PIL.Image.open(photo),
    np.asarray(PIL.Image.open(photo)),
  ):
    extracted = model.extract(form)
    assert extracted.local == by_path.local
    assert (extracted.path is None) == (not isinstance(form, str))


def test_rotation_is_applied_where_requested(config, model, photo):
  upright = np.ascontiguousarray(np.rot90(data.astronaut()[:200, :160], -1))
  expected = model.extract(upright)
  rotated = delf.load(config.parent, rotate=True)
  for form in (photo, photo.read_bytes(), PIL.Image.open(photo)):
    extracted = rotated.extract(form)
    assert extracted.local == expected.local
    assert extracted.is_rotated


def test_a_list_is_extracted_in_order(model, photo):
  pixels = data.coffee()
  photos = [photo, pixels[:90, :120], photo.read_bytes(), pixels[:90, 200:320]]
  steps = []
  batch = model.extract(photos, progress=lambda *step: steps.append(step))
  alone = [model.extract(each) for each in photos]
  for one, other in zip(batch, alone, strict=True):
    assert one == other
  assert steps[0] == ("extracting", 0, 4) and steps[-1] == ("extracting", 4, 4)
  assert model.extract([]) == []
  together = model.extract([pixels[:90, :120]] * 3, batch=3)
  np.testing.assert_allclose(
    together[2].global_descriptor, alone[1].global_descriptor, atol=1e-5
  )


def test_a_bad_photo_of_a_list(model, photo, tmp_path):
  bad = tmp_path / "bad.jpg"
  bad.write_bytes(b"no")
  with pytest.raises(errors.InputError, match="bad.jpg"):
    model.extract([photo, bad])
  one, none, other = model.extract([photo, bad, photo], skip_failed=True)
  assert none is None and one == other


@pytest.mark.parametrize(
  ("bad", "message"),
  [
    (np.zeros([5, 5], np.uint8), "height, width, 3"),
    (np.zeros([5, 5, 3], np.float32), "float32"),
    (b"", "empty"),
    (b"no image", "the photo: "),
    (7, "not int"),
  ],
)
def test_bad_photos(model, bad, message):
  with pytest.raises(errors.InputError, match=message):
    model.extract(bad)


def test_features_behave(model, photo):
  extracted = model.extract(photo)
  assert pickle.loads(pickle.dumps(extracted)) == extracted
  assert extracted != model.extract(data.coffee())
  assert "float32 [50, 8]" in repr(extracted) and len(repr(extracted)) < 500
  plain = extracted.to_dict()
  assert plain["path"] == str(photo)
  assert len(plain["local"]["descriptors"]) == 50
  assert len(plain["global_descriptor"]) == 8
