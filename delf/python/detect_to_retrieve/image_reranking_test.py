import io
import json

import numpy as np
import pytest
from PIL import Image

from delf.python import feature_io
from delf.python.detect_to_retrieve import image_reranking
from tests.stand_ins import npz

_CASES = [
  "n1000_d128_inl5",
  "n1000_d128_inl10",
  "n1000_d128_inl30",
  "n1000_d128_inl50",
  "n1000_d128_inl100",
  "n300_d40_inl10",
  "n300_d40_inl50",
]


@pytest.fixture
def meta(goldens):
  return json.loads((goldens / "match_meta.json").read_text())


def _match(goldens, case, swapped=False, **options):
  with np.load(goldens / f"match_{case}.npz") as file:
    golden = dict(file)
  sides = [
    (golden[f"{side}_locations"], golden[f"{side}_descriptors"])
    for side in ("query", "index")
  ]
  query, index = sides[::-1] if swapped else sides
  return image_reranking.MatchFeatures(*query, *index, **options)[0]


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize(
  ("key", "options"),
  [
    ("dist0.9", {}),
    (
      "ratio0.8",
      {"use_ratio_test": True, "descriptor_matching_threshold": 0.8},
    ),
    ("dist0.9_res20", {"ransac_residual_threshold": 20}),
    ("swapped", {"swapped": True}),
  ],
)
def test_finds_as_much_as_the_original(goldens, meta, case, key, options):
  recorded = meta[case]
  # At 5 % and 10 % inliers the original finds them in some of its runs; here
  # they must be found in each.
  least = max(0.97 * min(recorded[key]), 0.97 * recorded["true_inliers"])
  most = 1.05 * recorded["true_inliers"] + 5
  for seed in range(3):
    score = _match(goldens, case, ransac_seed=seed, **options)
    assert least <= score <= most
    assert score == _match(goldens, case, ransac_seed=seed, **options)


def _features(number, dimension=8, seed=0):
  random = np.random.default_rng(seed)
  locations = random.uniform(0, 300, (number, 2))
  return locations, random.normal(size=(number, dimension))


def _count(query, index, **options):
  return image_reranking.MatchFeatures(*query, *index, **options)


@pytest.mark.parametrize(
  ("number", "score"), [(0, 0), (3, 0), (4, 4), (10, 10)]
)
def test_at_most_three_putative_matches_give_zero(number, score):
  same = _features(number)
  assert _count(same, same) == (score, b"")


def test_the_ratio_test_needs_a_second_nearest():
  same, one = _features(9), _features(1)
  assert _count(same, one, use_ratio_test=True) == (0, b"")


def test_one_empty_side_gives_zero():
  assert _count(_features(0), _features(9)) == (0, b"")
  assert _count(_features(9), _features(0)) == (0, b"")


def test_distance_threshold_excludes_its_own_value():
  locations = _features(10)[0]
  zeros, ones = np.zeros([10, 1]), np.ones([10, 1])
  there = (locations, zeros + np.arange(10)[:, None] * 4)
  back = (locations, ones + np.arange(10)[:, None] * 4)
  assert _count(there, back, descriptor_matching_threshold=1.0)[0] == 0
  assert _count(there, back, descriptor_matching_threshold=1.01)[0] == 10


def test_collinear_and_one_spot():
  _, descriptors = _features(10)
  line = np.arange(10.0)[:, None] * [10, 20]
  assert _count((line, descriptors), (line + 5, descriptors))[0] == 10
  spot = np.ones([10, 2])
  assert _count((spot, descriptors), (spot, descriptors))[0] == 0


@pytest.mark.parametrize("size", [0.1, 12])
def test_images_may_be_of_very_different_sizes(size):
  locations, descriptors = _features(40)
  small = (size * locations, descriptors)
  threshold = 3 * min(size, 1)
  found = _count(
    small, (locations, descriptors), ransac_residual_threshold=threshold
  )
  assert found[0] == 40


def test_dimensions_that_differ_are_refused():
  with pytest.raises(ValueError, match="8 values in image 1 and 7"):
    _count(_features(9, 8), _features(9, 7))


@pytest.mark.parametrize("factors", [None, (0.5, 0.5)])
def test_images_give_a_picture(factors):
  same = _features(30)
  image = np.full([320, 310, 3], 90, np.uint8)
  score, picture = _count(
    same,
    same,
    query_im_array=image,
    index_im_array=image,
    query_im_scale_factors=factors,
  )
  assert score == 30
  assert picture.startswith(b"\xff\xd8")
  with Image.open(io.BytesIO(picture)) as image:
    drawn = np.asarray(image.convert("RGB"), np.int16)
  assert np.ptp(drawn, axis=2).max() > 60  # Coloured lines on grey photos.


def test_images_without_a_match_give_no_picture():
  image = np.zeros([50, 50, 3], np.uint8)
  nothing = _count(
    _features(2), _features(2), query_im_array=image, index_im_array=image
  )
  assert nothing == (0, b"")


def _write(folder, name, locations, descriptors):
  ones = np.ones([len(locations)])
  path = str(folder / f"{name}.delf")
  feature_io.WriteToFile(path, locations, ones, descriptors, ones)


def _rerank(folder, ranks, scores, names, junk, **options):
  return image_reranking.RerankByGeometricVerification(
    ranks, scores, "q", names, folder, folder, junk, **options
  )


@pytest.mark.parametrize("junk", ["[]", "[1]", "[3, 5]"])
def test_reranks_as_the_original(goldens, meta, tmp_path, junk):
  features = npz.read(goldens / "match_rerank.npz")
  names = [f"i{number}" for number in range(6)]
  for name in ("q", *names):
    sides = features[f"{name}_locations"], features[f"{name}_descriptors"]
    _write(tmp_path, name, *sides)
  recorded = meta["rerank"]
  for seed, expected in enumerate(
    recorded["junk_to_output_ranks_seed012"][junk]
  ):
    found = _rerank(
      tmp_path,
      recorded["input_ranks"],
      recorded["scores"],
      names,
      json.loads(junk),
      ransac_seed=seed,
    )
    assert found == expected
    assert isinstance(found, list) and isinstance(found[0], int)


@pytest.mark.parametrize(
  ("ranks", "scores", "word"),
  [
    ([0, 1, 2], [0.0] * 6, "input_ranks has 3 values for 6 "),
    (list(range(6)), [0.0] * 3, "initial_scores has 3 values for 6 "),
    ([0, 1, 2, 3, 4, 4], [0.0] * 6, "each index image once"),
  ],
)
def test_rankings_that_do_not_fit_are_refused(tmp_path, ranks, scores, word):
  with pytest.raises(ValueError, match=word):
    _rerank(tmp_path, ranks, scores, list("abcdef"), [])


def test_arguments_may_be_what_the_original_s_script_gives(tmp_path):
  for name in "qabc":
    _write(tmp_path, name, *_features(9))
  scores = np.array([0.1, 0.5, 0.9])
  arguments = (np.argsort(-scores), scores, "q", ["a", "b", "c"])
  # Ids of a Matlab file are float.
  junk = set(np.array([1.0, 2.0]))
  found = image_reranking.RerankByGeometricVerification(
    *arguments, str(tmp_path), str(tmp_path), junk, ".delf", None, 1.0, 20, True
  )
  ranks = np.zeros([1, 3], "int32")
  ranks[0] = found
  assert ranks.tolist() == [[0, 2, 1]]


def test_feature_files_that_do_not_work_are_named(tmp_path):
  _write(tmp_path, "q", *_features(9))
  with pytest.raises(FileNotFoundError, match=r"a\.delf"):
    _rerank(tmp_path, [0], [1.0], ["a"], [])
  _write(tmp_path, "a", *_features(9, 7))
  with pytest.raises(ValueError, match="8 values in image 1 and 7"):
    _rerank(tmp_path, [0], [1.0], ["a"], {3})
  assert _rerank(tmp_path, [0], [1.0], ["a"], {0}) == [0]
