import numpy as np
import pytest

from benchmarks.shared import pair_errors


def test_area_under_recall_is_that_of_the_curve():
  # Recall is 0 at 0, a quarter at 1 and a half from 3 on; one never is.
  errors = [3.0, 1.0, 8.0, np.inf]
  area = 1 * 0.25 / 2 + 2 * (0.25 + 0.5) / 2 + 2 * 0.5
  assert pair_errors.area_under_recall(errors, 5) == pytest.approx(area / 5)
  assert pair_errors.area_under_recall([np.inf], 5) == 0
  assert pair_errors.area_under_recall([0.0, 0.0], 5) == 1


def _two_views(rotation, shift, number=60):
  camera = np.array([[800.0, 0, 500], [0, 800, 250], [0, 0, 1]])
  random = np.random.default_rng(0)
  space = random.uniform([-2, -1, 4], [2, 1, 9], (number, 3))
  views = [x @ camera.T for x in (space, space @ rotation.T + shift)]
  return camera, [view[:, :2] / view[:, 2:] for view in views]


def _cross(shift):
  x, y, z = shift
  return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _turn(degrees):
  cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
  return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


@pytest.mark.parametrize(
  "turned, moved, expected", [(0, 0, 0), (7, 0, 7), (0, 12, 12), (3, 12, 12)]
)
def test_pose_error_is_the_larger_angle(turned, moved, expected):
  rotation, shift = _turn(10), np.array([1.0, 0.2, 0.1])
  camera, points = _two_views(rotation, shift)
  truth = {"K0": camera, "K1": camera}
  truth |= {"R": _turn(turned) @ rotation, "t": 3 * shift}
  if moved:
    axis = np.cross(shift, [0, 0, 1.0])
    axis /= np.linalg.norm(axis)
    angle = np.radians(moved)
    truth["t"] = np.cos(angle) * shift + np.sin(angle) * np.cross(axis, shift)
  essential = _cross(shift) @ rotation
  error = pair_errors.pose_error(essential, *points, truth)
  assert error == pytest.approx(expected, abs=1e-3)
  # The sign of the translation is open.
  truth["t"] = -truth["t"]
  error = pair_errors.pose_error(essential, *points, truth)
  assert error == pytest.approx(expected, abs=1e-3)


def test_pose_error_of_candidates_is_that_of_what_is_seen():
  rotation, shift = _turn(10), np.array([1.0, 0.2, 0.1])
  camera, points = _two_views(rotation, shift)
  truth = {"K0": camera, "K1": camera, "R": rotation, "t": shift}
  good = _cross(shift) @ rotation
  other = _cross([0.0, 0.1, 1.0]) @ _turn(80)
  error = pair_errors.pose_error(np.vstack([other, good]), *points, truth)
  assert error == pytest.approx(0, abs=1e-3)


def test_pose_error_without_a_pose_is_infinite():
  truth = {"K0": np.eye(3), "K1": np.eye(3), "R": np.eye(3), "t": [1, 0, 0]}
  nothing = np.zeros([0, 2])
  assert pair_errors.pose_error(None, nothing, nothing, truth) == np.inf
  assert pair_errors.pose_error(np.eye(3), nothing, nothing, truth) == np.inf


def test_transfer_error_is_the_mean_distance_where_both_are():
  truth = np.diag([2.0, 2.0, 1.0])
  sizes = (100, 80), (100, 100)
  assert pair_errors.transfer_error(truth, truth, *sizes) == 0
  moved = truth + np.array([[0, 0, 3.0], [0, 0, 4], [0, 0, 0]])
  error = pair_errors.transfer_error(moved, truth, *sizes)
  assert error == pytest.approx(5, abs=1e-5)
  # An affine map is a homography too.
  error = pair_errors.transfer_error(moved[:2], truth, *sizes)
  assert error == pytest.approx(5, abs=1e-5)
  assert pair_errors.transfer_error(None, truth, *sizes) == np.inf
  away = truth + np.array([[0, 0, 1000.0], [0, 0, 0], [0, 0, 0]])
  assert pair_errors.transfer_error(truth, away, *sizes) == np.inf
