import numpy as np
import pytest
from scipy import spatial

from delf.base import errors
from delf.matching import neighbours

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
  found = neighbours.nearest(
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
  found = neighbours.nearest(first, second, ratio=0.8)
  assert 0 < keep.sum() < len(first)
  np.testing.assert_array_equal(found.pairs[:, 0], np.flatnonzero(keep))
  np.testing.assert_array_equal(found.pairs[:, 1], indices[keep, 0])


@pytest.mark.parametrize("block", [neighbours._BLOCK, 70 * 7])
def test_mutual_keeps_what_two_trees_say(descriptors, block, monkeypatch):
  monkeypatch.setattr(neighbours, "_BLOCK", block)
  first, second = descriptors
  there = _reference(first, second, 1)[1]
  back = _reference(second, first, 1)[1]
  keep = np.flatnonzero(back[there] == np.arange(len(first)))
  found = neighbours.nearest(first, second, mutual=True)
  np.testing.assert_array_equal(found.pairs, np.stack([keep, there[keep]], 1))


def test_blocks_do_not_change_the_result(descriptors, monkeypatch):
  whole = neighbours.nearest(*descriptors, ratio=0.9, mutual=True)
  monkeypatch.setattr(neighbours, "_BLOCK", 1)
  rows = neighbours.nearest(*descriptors, ratio=0.9, mutual=True)
  np.testing.assert_array_equal(whole.pairs, rows.pairs)


def test_mutual_is_one_to_one_where_descriptors_repeat():
  same = np.ones([5, 3])
  found = neighbours.nearest(same, same, mutual=True)
  assert found.pairs.tolist() == [[0, 0]]


def test_far_from_the_origin_distances_stay_exact():
  random = np.random.default_rng(1)
  first = 1000 + random.normal(size=(20, 4)) * 0.1
  found = neighbours.nearest(first, first)
  np.testing.assert_array_equal(found.pairs[:, 0], found.pairs[:, 1])
  np.testing.assert_array_equal(found.distances, 0)


def test_one_to_one_keeps_the_nearest_of_both():
  pairs = np.array([[0, 4], [1, 4], [2, 5], [3, 4]], np.int32)
  found = neighbours.Putatives(pairs, np.float32([0.3, 0.1, 0.5, 0.2]))
  assert found.one_to_one().tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(0, 8), (0, 0), (0,)])
@pytest.mark.parametrize("swap", [False, True])
def test_nothing_to_match_gives_nothing(descriptors, shape, swap):
  sides = [np.zeros(shape), descriptors[0]]
  found = neighbours.nearest(*(sides[::-1] if swap else sides), mutual=True)
  assert found.pairs.shape == (0, 2)
  assert found.distances.shape == (0,)


def test_ratio_with_a_single_candidate_keeps_it():
  assert len(neighbours.nearest(np.eye(2), np.eye(2)[:1], ratio=0.5)) == 2


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"first": np.full([3, 8], np.nan)}, "finite descriptors 1, received NaN"),
    ({"second": np.full([3, 8], 1e300)}, "finite descriptors 2"),
    ({"second": np.ones([3, 7])}, "one dimension"),
    ({"second": np.full([3, 8], 1e25)}, "over 1e\\+15 in 3 of 3"),
    ({"first": None}, "array of numbers"),
    ({"max_distance": "a"}, "max_distance over 0"),
    ({"first": np.ones([8])}, "shape \\[N, D\\]"),
    ({"first": np.array([["a"] * 8])}, "array of numbers"),
    ({"ratio": 0}, "ratio over 0"),
    ({"max_distance": np.nan}, "max_distance over 0"),
  ],
)
def test_bad_input_is_named(descriptors, changes, words):
  arguments = {"first": descriptors[0], "second": descriptors[1], **changes}
  with pytest.raises(errors.InputError, match=words):
    neighbours.nearest(
      arguments.pop("first"), arguments.pop("second"), **arguments
    )


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("options", [{"ratio": 0.95}, {"mutual": True}, {}])
def test_prepared_descriptors_give_the_same(offset, options):
  random = np.random.default_rng(3)
  sides = random.normal(size=(2, 50, 6)) + offset
  expected = neighbours.nearest(*sides, **options)
  found = neighbours.nearest(*map(neighbours.prepare, sides), **options)
  assert found.pairs.tolist() == expected.pairs.tolist()
  assert found.distances.tolist() == expected.distances.tolist()
  # By distances of all pairs, in float64.
  exact = np.linalg.norm(sides[0][:, None] - sides[1], axis=2)
  nearest = exact.argmin(axis=1)
  assert (found.pairs[:, 1] == nearest[found.pairs[:, 0]]).all()


def test_no_descriptors_can_be_prepared():
  none = neighbours.prepare(np.zeros([0, 6]))
  assert len(none) == 0
  some = neighbours.prepare(np.ones([3, 6]))
  assert len(neighbours.nearest(some, none)) == 0
  assert len(neighbours.nearest(none, some)) == 0


def test_what_is_prepared_is_named_where_it_is_wrong():
  with pytest.raises(errors.InputError, match="of the query"):
    neighbours.prepare(np.full([2, 3], np.nan), "descriptors of the query")
