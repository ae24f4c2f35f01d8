import numpy as np
import pytest

from delf.aggregation import kmeans, visual_words
from delf.base import errors


def _features(number=3000, size=16, clusters=12, seed=0):
  """Returns features about `clusters` centres, and the centre of each."""
  generator = np.random.default_rng(seed)
  centers = generator.standard_normal((clusters, size))
  which = generator.integers(0, clusters, number)
  noise = generator.standard_normal((number, size)) * 0.05
  return (centers[which] + noise).astype(np.float32), which


def _nearest(features, centers):
  """Returns [N] squared distances and [N] words."""
  labels = visual_words.Words(centers).nearest(features)[:, 0]
  return ((features - centers[labels]) ** 2).sum(axis=1), labels


def _plain_step(features, centers):
  """Lloyd's step as it is written down, for words that all have features."""
  squares = ((features[:, np.newaxis] - centers) ** 2).sum(axis=2)
  nearest = squares.argmin(axis=1)
  means = [features[nearest == k].mean(axis=0) for k in range(len(centers))]
  return np.array(means), squares.min(axis=1).mean()


def test_a_step_is_lloyds(monkeypatch):
  monkeypatch.setattr(kmeans, "_BLOCK", 700)
  features, _ = _features()
  state = kmeans.start(features, 20)
  for _ in range(3):
    centers, objective = _plain_step(features.astype(np.float64), state.centers)
    state = kmeans.step(features, state)
    np.testing.assert_allclose(state.centers, centers, atol=1e-5)
    np.testing.assert_allclose(state.objectives[-1], objective, rtol=1e-4)


@pytest.mark.parametrize("method", [kmeans.EXACT, kmeans.APPROXIMATE])
def test_the_objective_falls(method):
  features, _ = _features()
  state = kmeans.train(features, 64, num_iterations=12, method=method)
  assert state.iteration == 12 or state.converged
  assert (np.diff(state.objectives) <= 1e-6).all()
  assert state.objectives[-1] < 0.7 * state.objectives[0]
  final = _nearest(features, state.centers)[0].mean()
  assert final <= state.objectives[-1]


def test_an_approximate_codebook_is_nearly_as_good():
  generator = np.random.default_rng(1)
  features = generator.standard_normal((6000, 24)).astype(np.float32)
  objectives = [
    _nearest(
      features,
      kmeans.train(features, 600, 10, method=method).centers,
    )[0].mean()
    for method in (kmeans.EXACT, kmeans.APPROXIMATE)
  ]
  assert objectives[1] < 1.02 * objectives[0]


def test_steps_end_where_no_word_moves():
  features, which = _features(clusters=4)
  state = kmeans.train(features, 4, num_iterations=100, seed=4)
  assert state.converged
  assert state.iteration < 100
  again = kmeans.step(features, state)
  np.testing.assert_array_equal(again.centers, state.centers)


def test_the_seed_decides():
  features, _ = _features()
  one, two, other = (
    kmeans.train(features, 30, 3, seed=seed).centers for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)


def test_words_without_features_go_where_they_are_needed():
  # All first words lie in one of two far places; some have no features then.
  generator = np.random.default_rng(0)
  near = generator.standard_normal((500, 4)) * 0.01
  far = generator.standard_normal((500, 4)) * 0.01 + 10
  features = np.concatenate([near, far]).astype(np.float32)
  centers = np.zeros([6, 4], dtype=np.float32)
  centers[0] = 5
  state = kmeans.step(features, kmeans.State(centers))
  assert state.moved == (4,)
  state = kmeans.step(features, kmeans.step(features, state))
  assert state.moved[-1] == 0
  assert state.objectives[-1] < 0.01


def test_fewer_different_features_than_words():
  features = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
  state = kmeans.train(features, 5, num_iterations=20)
  assert np.isfinite(state.centers).all()
  assert state.converged
  assert _nearest(features, state.centers)[0].max() < 1e-6


def test_cells_find_near_words():
  features, _ = _features(clusters=300)
  centers = features[:500]
  distances, exact = _nearest(features, centers)
  find = kmeans.Cells(centers).find
  found_distances, found = kmeans._nearest(find, centers, features)
  assert (found == exact).mean() > 0.95
  true = ((features - centers[found]) ** 2).sum(axis=1)
  np.testing.assert_allclose(found_distances, true, atol=1e-4)
  # A word that was known to be nearer is kept.
  _, kept = kmeans._nearest(find, centers, features, before=exact)
  same = (features - centers[kept]) ** 2
  np.testing.assert_allclose(same.sum(axis=1), distances, atol=1e-4)


def test_the_automatic_choice():
  assert kmeans.choose_method("auto", 10**6, 1024) == "exact"
  assert kmeans.choose_method("auto", 10**6, 65536) == "approximate"
  assert kmeans.choose_method("auto", 10**5, 65536) == "exact"
  assert kmeans.choose_method("exact", 10**6, 65536) == "exact"
  with pytest.raises(errors.InputError, match="approximate, not 'best'"):
    kmeans.choose_method("best", 1, 1)


@pytest.mark.parametrize(
  ("features", "number", "words_"),
  [
    (np.ones([3, 2]), 4, "3 features are too few for 4 words"),
    (np.ones([3, 2]), 0, "num_clusters must be over 0, not 0"),
    (np.ones([3]), 1, "features"),
    (np.ones([0, 2]), 1, "features"),
    (np.array([[1, np.nan]]), 1, "NaN"),
  ],
)
def test_what_cannot_be_clustered(features, number, words_):
  with pytest.raises(errors.InputError, match=words_):
    kmeans.train(features, number)
