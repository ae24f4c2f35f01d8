import dataclasses
import os

import cv2
import numpy as np
import PIL.Image
import pytest
from scipy import spatial
from skimage import data, util

from delf.base import errors
from delf.formats import features
from delf.matching import matcher
from delf.protos import delf_config_pb2
from delf.python import feature_io


def _pair(share, noise=1.0, number=1000, dimension=32, seed=0):
  """Two sets of features, `share` of which show the same points."""
  random = np.random.default_rng(seed)
  size = (2, number, dimension)
  descriptors = random.normal(size=size).astype(np.float32)
  descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
  locations = random.uniform(0, 1000, (2, number, 2))
  true = int(share * number)
  descriptors[1, :true] = descriptors[0, :true]
  turn = np.array([[0.8, -0.4], [0.5, 0.9]])
  locations[1, :true] = locations[0, :true] @ turn + [90, 70]
  locations[1] += random.normal(0, noise, (number, 2))
  return [
    features.LocalFeatures(
      locations=locations[side],
      scales=np.ones([number]),
      descriptors=descriptors[side],
      attention=np.ones([number]),
    )
    for side in range(2)
  ]


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize(
  ("share", "noise", "recall"),
  [(0.3, 1, 0.99), (0.3, 5, 0.99), (0.1, 1, 0.99), (0.1, 5, 0.95)],
)
def test_true_inliers_are_found(mutual, share, noise, recall):
  found = matcher.match(*_pair(share, noise), mutual=mutual)
  true = int(share * 1000)
  agree = found.inliers[:, 0] == found.inliers[:, 1]
  assert np.count_nonzero(agree & (found.inliers[:, 0] < true)) >= recall * true
  assert found.is_match
  # Locations are (y, x), the model is (x, y).
  np.testing.assert_allclose(found.model[1, 1], 0.8, atol=0.05)
  np.testing.assert_allclose(found.model[0, 1], -0.4, atol=0.05)


@pytest.mark.parametrize("estimator", ["affine", "homography", "fundamental"])
@pytest.mark.parametrize("mutual", [False, True])
def test_noise_is_no_match(estimator, mutual):
  for seed in range(6):
    found = matcher.match(
      *_pair(0, seed=seed), estimator=estimator, mutual=mutual
    )
    assert found.score < found.min_inliers
    assert not found.is_match


def test_result_holds_together():
  found = matcher.match(*_pair(0.2), matcher.MatchOptions(ratio=0.9))
  assert found.putative.dtype == found.inliers.dtype == np.int32
  assert found.model.shape == (2, 3)
  assert found.model.dtype == np.float64
  assert found.score == len(found.residuals) == len(found.distances)
  assert (found.residuals <= found.residual_threshold).all()
  assert (found.strengths >= 0).all()
  assert (found.strengths <= 1).all()
  putative = set(map(tuple, found.putative.tolist()))
  assert set(map(tuple, found.inliers.tolist())) <= putative
  with pytest.raises(dataclasses.FrozenInstanceError):
    found.model = None


def test_same_seed_same_result():
  pair = _pair(0.02)
  first = matcher.match(*pair, seed=5)
  again = matcher.match(*pair, seed=5)
  np.testing.assert_array_equal(first.inliers, again.inliers)
  np.testing.assert_array_equal(first.model, again.model)


def test_the_user_may_set_what_makes_a_match():
  pair = _pair(0.3, number=100)
  assert matcher.match(*pair).is_match
  assert not matcher.match(*pair, min_inliers=31).is_match


@pytest.mark.parametrize("sides", [(0, 0), (0, 1), (1, 0)])
def test_without_features_nothing_matches(sides):
  some = (features.LocalFeatures.empty(), _pair(0.5, number=20)[0])
  found = matcher.match(*(some[side] for side in sides))
  assert found.putative.shape == found.inliers.shape == (0, 2)
  assert found.model is None
  assert found.score == 0
  assert not found.is_match


@pytest.mark.parametrize(
  ("field", "words"),
  [
    ("locations", "locations of image 2 must be finite"),
    ("descriptors", "finite"),
  ],
)
def test_nan_is_refused(field, words):
  one, two = _pair(0.5, number=30)
  values = getattr(two, field).copy()
  values[3, 1] = np.nan
  with pytest.raises(errors.InputError, match=words):
    matcher.match(one, dataclasses.replace(two, **{field: values}))


def test_locations_must_fit_descriptors():
  with pytest.raises(errors.InputError, match="locations of shape \\[4, 2\\]"):
    matcher.match_arrays(
      np.ones([3, 2]), np.ones([4, 8]), np.ones([4, 2]), np.ones([4, 8])
    )


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"min_inliers": 0}, "over 0 as min_inliers, received 0"),
    ({"min_inliers": -3}, "over 0 as min_inliers, received -3"),
    ({"min_inliers": 9.5}, "over 0 as min_inliers, received 9.5"),
    ({"residual_threshold": "a"}, "residual_threshold over 0.* received 'a'"),
    ({"residual_threshold": 0.0}, "residual_threshold over 0"),
    ({"residual_threshold": np.inf}, "residual_threshold over 0"),
    ({"estimator": "rigid"}, "estimator of affine"),
    ({"seed": "x"}, "whole number as seed"),
    ({"seed": 1.5}, "whole number as seed"),
    ({"seed": None}, "whole number as seed"),
    ({"ratio": "a"}, "ratio over 0"),
    ({"ratio": 0}, "ratio over 0"),
    ({"max_distance": "a"}, "max_distance over 0"),
    ({"max_distance": 0}, "max_distance over 0"),
    ({"max_distance": np.nan}, "max_distance over 0"),
  ],
)
def test_bad_options_are_named(options, words):
  with pytest.raises(errors.InputError, match=words):
    matcher.MatchOptions(**options)
  with pytest.raises(errors.InputError, match=words):
    matcher.match(*_pair(0.5, number=20), **options)


def test_descriptors_must_be_there():
  with pytest.raises(errors.InputError, match="descriptors of image 2"):
    matcher.match_arrays(
      np.ones([4, 2]), np.ones([4, 8]), np.ones([4, 2]), None
    )


@pytest.mark.parametrize("size", [0.1, 12])
def test_photos_of_very_different_sizes_match(size):
  one, two = _pair(0.3, noise=0.1)
  two = dataclasses.replace(two, locations=size * two.locations)
  found = matcher.match(one, two)
  assert found.is_match
  assert found.score >= 290


@pytest.mark.parametrize("estimator", ["affine", "homography"])
@pytest.mark.parametrize("swap", [False, True])
def test_a_detail_of_a_large_photo_matches_at_its_own_scale(estimator, swap):
  # What does not match lies all over the large photo.
  random = np.random.default_rng(0)
  detail, photo = _pair(0.3, number=500)
  small = random.uniform(0, 300, (500, 2))
  large = random.uniform(0, 4000, (500, 2))
  large[:150] = small[:150] + 1000 + random.normal(0, 0.5, (150, 2))
  pair = [
    dataclasses.replace(detail, locations=small),
    dataclasses.replace(photo, locations=large),
  ]
  found = matcher.match(*pair[:: -1 if swap else 1], estimator=estimator)
  assert found.is_match
  assert found.score >= 145


_CASES = [
  "n1000_d128_inl5",
  "n1000_d128_inl10",
  "n1000_d128_inl30",
  "n1000_d128_inl50",
  "n1000_d128_inl100",
  "n300_d40_inl10",
  "n300_d40_inl50",
]


@pytest.mark.parametrize("case", _CASES)
def test_same_putatives_as_the_original(goldens, case):
  with np.load(goldens / f"match_{case}.npz") as file:
    golden = dict(file)
  found = matcher.nearest(
    golden["query_descriptors"], golden["index_descriptors"], max_distance=0.9
  )
  nearest = np.full(
    len(golden["query_descriptors"]), len(golden["index_locations"])
  )
  nearest[found.pairs[:, 0]] = found.pairs[:, 1]
  np.testing.assert_array_equal(nearest, golden["putative_index"])
  np.testing.assert_allclose(
    found.distances, golden["putative_dist"][found.pairs[:, 0]], atol=1e-6
  )


@pytest.fixture
def descriptors():
  random = np.random.default_rng(0)
  return random.normal(size=(90, 8)), random.normal(size=(70, 8))


def _reference(first, second, count=2):
  return spatial.cKDTree(second).query(first, k=count)


def test_ratio_keeps_what_a_tree_says(descriptors):
  first, second = descriptors
  distances, indices = _reference(first, second)
  keep = distances[:, 0] < 0.8 * distances[:, 1]
  found = matcher.nearest(first, second, ratio=0.8)
  assert 0 < keep.sum() < len(first)
  np.testing.assert_array_equal(found.pairs[:, 0], np.flatnonzero(keep))
  np.testing.assert_array_equal(found.pairs[:, 1], indices[keep, 0])


@pytest.mark.parametrize("block", [matcher._BLOCK, 70 * 7])
def test_mutual_keeps_what_two_trees_say(descriptors, block, monkeypatch):
  monkeypatch.setattr(matcher, "_BLOCK", block)
  first, second = descriptors
  there = _reference(first, second, 1)[1]
  back = _reference(second, first, 1)[1]
  keep = np.flatnonzero(back[there] == np.arange(len(first)))
  found = matcher.nearest(first, second, mutual=True)
  np.testing.assert_array_equal(found.pairs, np.stack([keep, there[keep]], 1))


def test_blocks_do_not_change_the_result(descriptors, monkeypatch):
  whole = matcher.nearest(*descriptors, ratio=0.9, mutual=True)
  monkeypatch.setattr(matcher, "_BLOCK", 1)
  rows = matcher.nearest(*descriptors, ratio=0.9, mutual=True)
  np.testing.assert_array_equal(whole.pairs, rows.pairs)


def test_mutual_is_one_to_one_where_descriptors_repeat():
  same = np.ones([5, 3])
  found = matcher.nearest(same, same, mutual=True)
  assert found.pairs.tolist() == [[0, 0]]


def test_far_from_the_origin_distances_stay_exact():
  random = np.random.default_rng(1)
  first = 1000 + random.normal(size=(20, 4)) * 0.1
  found = matcher.nearest(first, first)
  np.testing.assert_array_equal(found.pairs[:, 0], found.pairs[:, 1])
  np.testing.assert_array_equal(found.distances, 0)


def test_one_to_one_keeps_the_nearest_of_both():
  pairs = np.array([[0, 4], [1, 4], [2, 5], [3, 4]], np.int32)
  found = matcher.Putatives(pairs, np.float32([0.3, 0.1, 0.5, 0.2]))
  assert found.one_to_one().tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(0, 8), (0, 0), (0,)])
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_to_match_gives_nothing(descriptors, shape, swap):
  sides = [np.zeros(shape), descriptors[0]]
  found = matcher.nearest(*(sides[::-1] if swap else sides), mutual=True)
  assert found.pairs.shape == (0, 2)
  assert found.distances.shape == (0,)


def test_ratio_with_a_single_candidate_keeps_it():
  assert len(matcher.nearest(np.eye(2), np.eye(2)[:1], ratio=0.5).pairs) == 2


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"first": np.full([3, 8], np.nan)},
      "descriptors 1 must be finite: NaN",
    ),
    ({"second": np.full([3, 8], 1e300)}, "descriptors 2 must be finite"),
    ({"second": np.ones([3, 7])}, "one dimension"),
    ({"second": np.full([3, 8], 1e25)}, "over 1e\\+15 in 3 of 3"),
    ({"first": None}, "array of numbers"),
    ({"first": np.ones([8])}, "shape \\[N, D\\]"),
    ({"first": np.array([["a"] * 8])}, "array of numbers"),
  ],
)
def test_bad_descriptors_are_named(descriptors, changes, words):
  both = {"first": descriptors[0], "second": descriptors[1]} | changes
  with pytest.raises(errors.InputError, match=words):
    matcher.nearest(**both)


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("options", [{"ratio": 0.95}, {"mutual": True}, {}])
def test_prepared_descriptors_give_the_same(offset, options):
  random = np.random.default_rng(3)
  sides = random.normal(size=(2, 50, 6)) + offset
  expected = matcher.nearest(*sides, **options)
  found = matcher.nearest(*map(matcher.prepare_descriptors, sides), **options)
  assert found.pairs.tolist() == expected.pairs.tolist()
  assert found.distances.tolist() == expected.distances.tolist()
  # By distances of all pairs, in float64.
  exact = np.linalg.norm(sides[0][:, None] - sides[1], axis=2)
  nearest = exact.argmin(axis=1)
  assert (found.pairs[:, 1] == nearest[found.pairs[:, 0]]).all()


def test_no_descriptors_can_be_prepared():
  none = matcher.prepare_descriptors(np.zeros([0, 6]))
  assert len(none) == 0
  some = matcher.prepare_descriptors(np.ones([3, 6]))
  assert len(matcher.nearest(some, none).pairs) == 0
  assert len(matcher.nearest(none, some).pairs) == 0


def test_what_is_prepared_is_named_where_it_is_wrong():
  with pytest.raises(errors.InputError, match="of the query"):
    matcher.prepare_descriptors(
      np.full([2, 3], np.nan), "descriptors of the query"
    )


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
  result = matcher.match_images(
    *photos[:2], extractor=SiftExtractor(), output=tmp_path / "out" / "ab.png"
  )
  assert result.match.is_match
  assert result.match.score > 100
  # The known turn is found: the model maps (x, y).
  np.testing.assert_allclose(
    result.match.model, _turned(_photo())[0], rtol=0.02, atol=0.6
  )
  with PIL.Image.open(result.picture) as picture:
    assert picture.width > 1000
  assert set(result.timings) == {"read", "extract", "match", "draw"}
  assert len(result.features[0]) > 100
  assert result.device == "CPU"


def test_images_may_be_arrays(photos):
  arrays = [_read(path) for path in photos[:2]]
  by_path = matcher.match_images(*photos[:2], extractor=SiftExtractor())
  by_array = matcher.match_images(*arrays, extractor=SiftExtractor())
  np.testing.assert_array_equal(by_path.match.inliers, by_array.match.inliers)
  assert by_array.picture is None


@pytest.mark.parametrize("other", [2, 3])
def test_what_does_not_match_has_a_picture_too(photos, tmp_path, other):
  result = matcher.match_images(
    photos[0],
    photos[other],
    extractor=SiftExtractor(),
    output=tmp_path / "a.jpg",
  )
  assert not result.match.is_match
  assert (tmp_path / "a.jpg").stat().st_size > 1000


@pytest.mark.parametrize("with_images", [True, False])
def test_feature_files_match_as_their_images_do(
  photos, feature_files, tmp_path, with_images
):
  result = matcher.match_feature_files(
    *feature_files[:2],
    photos[:2] if with_images else None,
    output=tmp_path / "m.png",
  )
  again = matcher.match_images(*photos[:2], extractor=SiftExtractor())
  assert result.match.score == again.match.score
  assert (tmp_path / "m.png").exists()


def test_rotation_is_applied_where_it_is_asked_for(tmp_path):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6
  PIL.Image.fromarray(_photo()).save(tmp_path / "a.png", exif=exif)
  as_stored, turned = (
    matcher.match_images(
      tmp_path / "a.png",
      np.rot90(_photo(), -1),
      extractor=SiftExtractor(),
      apply_rotation=rotate,
    ).match.model
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
    ("dimensions", "one dimension"),
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
    matcher.match_feature_files(feature_files[0], bad, output=out)
  assert not out.exists()


def test_a_picture_that_cannot_be_is_refused_first(tmp_path):
  with pytest.raises(errors.InputError, match="picture name"):
    matcher.match_images("no.jpg", "such.jpg", output=tmp_path / "a.docx")


def test_a_picture_over_a_folder_is_refused_first(tmp_path):
  with pytest.raises(errors.InputError, match="a folder, not"):
    matcher.match_images("no.jpg", "such.jpg", output=_made(tmp_path / "a.png"))


def _made(folder):
  folder.mkdir()
  return folder


def test_a_configuration_without_local_features_is_refused(photos):
  config = delf_config_pb2.DelfConfig(
    model_path="m", use_local_features=False, use_global_features=True
  )
  with pytest.raises(errors.InputError, match="use_local_features: false"):
    matcher.match_images(*photos[:2], config)


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
