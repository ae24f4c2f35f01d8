import numpy as np
import pytest

from delf.base import errors
from delf.python import datum_io, whiten
from tests.stand_ins import npz


@pytest.fixture
def golden(goldens):
  return npz.read(goldens / "train_whiten.npz")


def test_learn_as_the_original(golden):
  mean, projection = whiten.learn_whitening(
    golden["descriptors"], golden["qidxs"], golden["pidxs"]
  )
  expected = golden["projection"]
  signs = np.sign((projection * expected).sum(axis=1, keepdims=True))
  np.testing.assert_allclose(mean, golden["mean"], rtol=1e-6)
  np.testing.assert_allclose(projection * signs, expected, rtol=1e-6)


def test_apply_as_the_original(golden):
  both = golden["descriptors"], golden["mean"], golden["projection"]
  found = whiten.apply_whitening(*both)
  np.testing.assert_allclose(found, golden["applied"], rtol=1e-6)
  found = whiten.apply_whitening(*both, output_dim=5)
  np.testing.assert_allclose(found, golden["applied_dim5"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["singular", "pd"])
def test_cholesky_as_the_original(golden, kind):
  found = whiten.cholesky(golden[f"cholesky_{kind}_in"])
  expected = golden[f"cholesky_{kind}_out"]
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


def _noisy_pairs(number=400, size=8):
  """Returns descriptors [D, 2 number] of pairs that differ along axis 0."""
  generator = np.random.default_rng(3)
  objects = generator.standard_normal((size, number))
  noise = generator.standard_normal((2, size, number)) * 0.05
  noise[:, 0] *= 40
  both = np.concatenate([objects + noise[0], objects + noise[1]], axis=1)
  return both, np.arange(number), np.arange(number) + number


def test_what_differs_within_a_pair_counts_little():
  descriptors, first, second = _noisy_pairs()
  mean, projection = whiten.learn_whitening(descriptors, first, second)
  # The differences of pairs have unit covariance, axis 0 comes last.
  differences = projection @ (descriptors[:, first] - descriptors[:, second])
  np.testing.assert_allclose(
    differences @ differences.T / len(first), np.eye(8), atol=1e-8
  )
  assert np.abs(projection[:, 0]).max() < 0.05 * np.abs(projection).max()
  whitened = whiten.apply_whitening(descriptors, mean, projection)
  nearest = (whitened[:, first].T @ whitened[:, second]).argmax(axis=1)
  assert (nearest == first).mean() > 0.95


def test_the_spread_of_all_falls_along_the_rows():
  descriptors, first, second = _noisy_pairs()
  mean, projection = whiten.learn_whitening(descriptors, first, second)
  spread = ((projection @ (descriptors - mean)) ** 2).sum(axis=1)
  assert (np.diff(spread) <= 0).all()


def test_columns_have_unit_length_and_zeros_stay():
  found = whiten.apply_whitening(
    np.array([[3.0, 1.0], [4.0, 1.0]]), np.ones([2, 1]), np.eye(2)
  )
  np.testing.assert_allclose(np.linalg.norm(found, axis=0), [1, 0], atol=1e-6)


def test_fewer_pairs_than_dimensions():
  descriptors, first, second = _noisy_pairs(number=3)
  _, projection = whiten.learn_whitening(descriptors, first, second)
  assert np.isfinite(projection).all()


def test_a_file_of_it(tmp_path):
  descriptors, first, second = _noisy_pairs()
  mean, projection = whiten.learn_whitening(descriptors, first, second)
  path = tmp_path / "deep" / "whitening.datum"
  whiten.write_whitening(path, mean, projection)
  found = whiten.read_whitening(path)
  np.testing.assert_allclose(found[0], mean, rtol=1e-6)
  np.testing.assert_allclose(found[1], projection, rtol=1e-6)
  whiten.apply_whitening(descriptors, *found)


@pytest.mark.parametrize(
  ("mean", "projection"),
  [
    (np.zeros([4, 1]), np.zeros([4, 5])),
    (np.zeros([4]), np.zeros([4, 4])),
    (np.zeros([4, 1]), np.zeros([4])),
    (np.zeros([4, 1]), np.full([4, 4], np.nan)),
    (np.zeros([0, 1]), np.zeros([0, 0])),
  ],
)
def test_a_file_of_something_else(tmp_path, mean, projection):
  path = tmp_path / "w.datum"
  datum_io.WritePairToFile(mean, projection, path)
  with pytest.raises(errors.InputError, match="w.datum"):
    whiten.read_whitening(path)


_D = np.ones([3, 7])


@pytest.mark.parametrize(
  "arguments",
  [
    (_D.T, np.zeros([3, 1]), np.eye(3)),  # Descriptors as rows.
    (_D, np.zeros([1, 3]), np.eye(3)),
    (_D, np.zeros([7, 1]), np.eye(3)),
    (_D, np.zeros([3, 1]), np.eye(7)),
    (_D, np.zeros([3, 1]), np.eye(3), 0),
    (_D, np.zeros([3, 1]), np.eye(3), 4),
    (_D[:, 0], np.zeros([3, 1]), np.eye(3)),
    (_D * np.nan, np.zeros([3, 1]), np.eye(3)),
  ],
)
def test_what_cannot_be_applied(arguments):
  with pytest.raises(errors.InputError):
    whiten.apply_whitening(*arguments)


@pytest.mark.parametrize(
  ("descriptors", "first", "second"),
  [
    (_D.T, [0, 6], [1, 2]),  # Descriptors as rows.
    (_D, [0, -1], [1, 2]),
    (_D, [0], [1, 2]),
    (_D, [], []),
    (_D, [0.5], [1]),
    (_D, [[0]], [[1]]),
    (_D[0], [0], [1]),
    (_D * np.inf, [0], [1]),
  ],
)
def test_what_cannot_be_learned_from(descriptors, first, second):
  with pytest.raises(errors.InputError):
    whiten.learn_whitening(descriptors, first, second)


@pytest.mark.parametrize(
  "matrix",
  [np.ones([2, 3]), np.array([[1, 2], [0, 1]]), np.full([2, 2], np.nan)],
)
def test_what_cannot_be_decomposed(matrix):
  with pytest.raises(errors.InputError):
    whiten.cholesky(matrix)
