import cv2
import numpy as np

from delf.python.pipelines.train import places
from delf.python.training.self_supervised import real_pairs


def _pair(first, second):
  return real_pairs.Pair(first, second, np.zeros([30, 4], np.float32))


def test_candidates_are_the_nearest():
  angles = np.array([0.0, 0.1, 1.5, 1.6, 3.0, 3.1, 4.0, 4.1, 5.0, 5.1])
  units = np.stack([np.cos(angles), np.sin(angles)], axis=1)
  found = places.candidates(units).tolist()
  for i in range(0, 10, 2):
    assert [i, i + 1] in found
  assert found == sorted(found) and all(i < j for i, j in found)


def test_candidates_are_of_one_class():
  units = np.tile([[1.0, 0.0]], [8, 1])
  labels = np.array([0, 1] * 4)
  found = places.candidates(units, labels)
  assert len(found) and (labels[found[:, 0]] == labels[found[:, 1]]).all()


def test_what_overlaps_is_verified_and_what_does_not_is_not():
  generator = np.random.default_rng(0)

  def noise():
    small = generator.integers(0, 256, [40, 50, 3], dtype=np.uint8)
    return cv2.resize(small, (200, 160), interpolation=cv2.INTER_CUBIC)

  one, other = noise(), noise()
  moved = np.roll(one, (5, 9), axis=(0, 1))
  found = places.verified([one, moved, other], np.array([[0, 1], [0, 2]]))
  assert [(pair.first, pair.second) for pair in found] == [(0, 1)]
  shift = np.median(found[0].points[:, 2:] - found[0].points[:, :2], axis=0)
  np.testing.assert_allclose(shift, [9, 5], atol=0.3)


def test_what_pairs_join_is_one_place():
  pools = places.pools(6, [_pair(0, 1), _pair(1, 4)])
  assert pools[0] == pools[1] == pools[4]
  assert len(set(pools.tolist())) == 4
  assert len(set(places.pools(3, []).tolist())) == 3
