"""Tests of views, correspondences and batches."""

import dataclasses

import cv2
import numpy as np
import pytest
from skimage import data as skimage_data

from delf.base import errors
from delf.learning import view_pairs
from tools import photo_sets


@pytest.fixture(scope="module")
def photo():
  image = cv2.resize(skimage_data.astronaut(), (320, 320))
  return view_pairs.Photo("astronaut", image, 0, 0)


def test_view_shows_its_centre_in_the_middle():
  rng = np.random.default_rng(0)
  homography = view_pairs.random_view(rng, (120, 80), 192, 1.3, 1.0)
  middle = view_pairs.project(homography, [[120, 80]])
  np.testing.assert_allclose(middle, [[95.5, 95.5]], atol=1e-9)


def test_known_points_are_where_the_view_shows_them():
  # Spots of one colour each, found again by colour in the rendered view.
  image = np.zeros([240, 320, 3], np.uint8)
  spots = np.array([[100, 90], [200, 100], [150, 150], [130, 120]])
  colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]])
  for spot, colour in zip(spots, colours, strict=True):
    cv2.circle(image, spot.tolist(), 4, colour.tolist(), -1)
  homography = view_pairs.random_view(
    np.random.default_rng(5), (150, 120), 192, 0.9, 0.7
  )
  view = view_pairs.render(image, homography, 192).astype(int)
  expected = view_pairs.project(homography, spots)
  for colour, point in zip(colours, expected, strict=True):
    y, x = np.nonzero(np.abs(view - colour).sum(-1) < 100)
    np.testing.assert_allclose([x.mean(), y.mean()], point, atol=1.0)


def test_correspondences_map_onto_each_other():
  rng = np.random.default_rng(1)
  maps = [
    view_pairs.random_view(rng, (160, 120), 192, 1.0, 0.7) for _ in range(2)
  ]
  grid = view_pairs.cell_centres(192)
  first, second = view_pairs.correspondences(grid, maps, (320, 240), 192)
  assert 50 < len(first) < len(grid)
  source = view_pairs.project(np.linalg.inv(maps[0]), first)
  np.testing.assert_allclose(
    view_pairs.project(maps[1], source), second, atol=1e-6
  )
  assert (source >= 0).all() and (source <= [319, 239]).all()


def test_cells_are_the_nearest():
  points = np.array([[0.0, 0.0], [3.9, 4.1], [8.0, 0.0], [187.9, 99.0]])
  assert view_pairs.nearest_cells(points, 192).tolist() == [
    0,
    24,
    1,
    12 * 24 + 23,
  ]


def test_batch_shows_the_same_in_both_views(photo):
  # Without changes of the pixels, patches about corresponding points are alike.
  source = view_pairs.Source(
    [photo], [], view_pairs.Options(pairs=1, real=0.0, seed=2)
  )
  batch = source.batch()
  assert batch.images.shape == (2, 192, 192, 3)
  number = int(batch.weights[0].sum())
  assert number > 16
  places = view_pairs.nearest_cells(batch.points[:, :number], 192)
  assert len(np.unique(places[0])) == len(np.unique(places[1])) == number
  # Points of the first view are the keypoints of cells.
  keypoints = 8 * np.mgrid[:24, :24].reshape(2, -1).T + batch.offsets[0]
  away = keypoints[:, None, ::-1] - batch.points[0, :number]
  assert np.abs(away).max(-1).min(0).max() < 1e-4


def test_corners_are_found_where_they_are():
  image = np.full([64, 64, 3], 40, np.uint8)
  image[21:, 30:] = 220
  found = view_pairs.find_corners(image)
  cell = view_pairs.nearest_cells(np.array([30.0, 21.0]), 64)
  assert found.sharp[cell] == 1 and found.sharp.sum() < 9
  assert np.abs(found.points[cell] - [29.5, 20.5]).max() <= 1.5
  assert found.distance[0, 0] > 20


def test_corners_that_another_view_shows_too_are_sure(photo):
  view = view_pairs.render(photo.image, np.eye(3), 192)
  shift = np.array([[1, 0, 25], [0, 1, -3], [0, 0, 1.0]])
  moved = view_pairs.render(photo.image, shift, 192)
  found = [
    view_pairs.find_corners(view),
    view_pairs.find_corners(moved),
  ]
  right = view_pairs.corner_agreement(*found, shift)
  wrong = view_pairs.corner_agreement(*found, np.eye(3))
  # A cell's best corner may have a better one beside it, in another cell.
  assert (right > 0.95).sum() > 3 * (wrong > 0.95).sum() > 0
  assert (right > 0.95).sum() > 0.3 * found[0].sharp.sum()
  outside = found[0].points[:, 0] + 25 > 191.5
  assert outside.any() and not right[outside].any()


def test_batches_repeat_by_seed(photo):
  options = view_pairs.Options(pairs=1, seed=9)
  first, second = (
    view_pairs.Source([photo], [], options).batch() for _ in range(2)
  )
  np.testing.assert_array_equal(first.images, second.images)
  np.testing.assert_array_equal(first.points, second.points)


def test_an_estimator_that_fails_finds_no_pair(monkeypatch):
  points = np.random.default_rng(0).uniform(0, 300, (40, 2))
  points = np.float32(np.hstack([points, points + 5]))
  assert len(view_pairs.epipolar_inliers(points))

  def fail(*_):
    raise cv2.error("model.empty()")

  monkeypatch.setattr(cv2, "findFundamentalMat", fail)
  assert view_pairs.epipolar_inliers(points).shape == (0, 4)


def test_real_pairs_follow_a_known_map(photo, tmp_path):
  homography = np.array([[0.9, 0.1, 10], [-0.1, 0.9, 30], [1e-4, 0, 1]])
  other = cv2.warpPerspective(photo.image, homography, (320, 320))
  found = view_pairs.match_groups(
    [photo, view_pairs.Photo("warped", other, 0, 0)]
  )
  assert len(found) == 1
  points = found[0].points
  expected = view_pairs.project(homography, points[:, :2])
  near = np.hypot(*(expected - points[:, 2:]).T) < 2
  assert near.mean() > 0.9
  everything = [photo, view_pairs.Photo("warped", other, 0, 0)]
  view_pairs.save(tmp_path / "pairs.npz", found, everything)
  again = view_pairs.load(tmp_path / "pairs.npz", everything)
  assert (again[0].first, again[0].second) == (0, 1)
  np.testing.assert_array_equal(again[0].points, points)
  view_pairs.save(tmp_path / "none.npz", [], everything)
  assert view_pairs.load(tmp_path / "none.npz", everything) == []


def test_pairs_of_other_photos_are_not_taken(photo, tmp_path):
  path = tmp_path / "pairs.npz"
  one, other = [photo], [dataclasses.replace(photo, name="other")]
  pair = view_pairs.Pair(0, 0, np.zeros([1, 4], np.float32))
  view_pairs.save(path, [pair], one)
  assert len(photo_sets.cached_pairs(path, one)) == 1
  assert photo_sets.cached_pairs(path, other) == []
  assert view_pairs.load(path, one) is None


@pytest.mark.parametrize(
  "options, words",
  [
    ({"pairs": 2}, r"number of places \(1\), not 2"),
    ({"pairs": 0}, "not 0"),
    ({"pairs": 1, "side": 100}, "multiple of 8, not 100"),
    ({"pairs": 1, "side": 32}, "side of a view must be 64 or more, .* not 32"),
  ],
)
def test_batches_that_cannot_be_are_refused(photo, options, words):
  with pytest.raises(errors.InputError, match=words):
    view_pairs.Source([photo, photo], [], view_pairs.Options(**options))


def test_pairs_of_photos_alone_need_a_place_each(photo):
  other = dataclasses.replace(photo, pool=1)
  pair = view_pairs.Pair(0, 0, np.zeros([1, 4], np.float32))
  view_pairs.Source(
    [photo, other], [pair], view_pairs.Options(pairs=2, real=0.5)
  )
  with pytest.raises(errors.InputError, match=r"places \(1\), not 2"):
    view_pairs.Source(
      [photo, other], [pair], view_pairs.Options(pairs=2, real=1.0)
    )
