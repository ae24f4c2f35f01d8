import numpy as np
import pytest

from delf.base import errors
from delf.inference import extractor
from delf.protos import delf_config_pb2
from delf.python import datum_io


@pytest.fixture
def parameters(tmp_path):
  """DelfPcaParameters of files with 6 components of 6 values."""
  rng = np.random.default_rng(0)
  arrays = {
    "mean": rng.standard_normal([6]),
    "matrix": rng.standard_normal([6, 6]),
    "variances": rng.random([6]) + 0.1,
  }
  for name, array in arrays.items():
    datum_io.WriteToFile(array, tmp_path / f"{name}.datum")
  return delf_config_pb2.DelfPcaParameters(
    mean_path=str(tmp_path / "mean.datum"),
    projection_matrix_path=str(tmp_path / "matrix.datum"),
    pca_variances_path=str(tmp_path / "variances.datum"),
    pca_dim=4,
    use_whitening=True,
  )


def test_load(parameters):
  loaded = extractor.load_pca(parameters)
  assert loaded.mean.shape == (6,)
  assert loaded.matrix.shape == (4, 6)
  assert loaded.variances.shape == (4,)
  assert loaded.dim == 4
  assert loaded.use_whitening
  parameters.use_whitening = False
  assert extractor.load_pca(parameters).variances is None


def test_projection(parameters):
  loaded = extractor.load_pca(parameters)
  data = np.random.default_rng(1).standard_normal([3, 6]).astype(np.float32)
  expected = np.zeros([3, 4])
  for row in range(3):
    for column in range(4):
      centred = data[row] - loaded.mean
      expected[row, column] = np.dot(centred, loaded.matrix[column])
  found = extractor.project(data, loaded.mean, loaded.matrix.T)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  whitened = extractor.project(
    data, loaded.mean, loaded.matrix.T, loaded.variances
  )
  np.testing.assert_allclose(
    whitened, expected / np.sqrt(loaded.variances), rtol=1e-4, atol=1e-5
  )
  assert whitened.dtype == np.float32


@pytest.mark.parametrize(
  ("name", "array", "pattern"),
  [
    ("mean", np.ones([5]), "matrix.datum: .*the mean in .*shape .any, 5."),
    (
      "mean",
      np.ones([6, 1]),
      "mean.datum: the mean must have shape .any.,? not .6, 1.",
    ),
    ("mean", np.full([6], np.nan), "mean.datum: .*finite"),
    ("matrix", np.ones([6, 5]), "matrix.datum: .*shape .any, 6.,"),
    (
      "matrix",
      np.ones([3, 6]),
      "matrix.datum: pca_dim is 4, .* 3 components: use 1 to 3",
    ),
    ("matrix", np.ones([36]), "matrix.datum: .*not .36."),
    ("variances", np.ones([5]), "variances.datum: .*shape .6., not .5."),
    (
      "variances",
      np.zeros([6]),
      "variances.datum: variances must be over 0, not 0",
    ),
  ],
)
def test_files_that_do_not_fit(name, array, pattern, parameters, tmp_path):
  datum_io.WriteToFile(array, tmp_path / f"{name}.datum")
  with pytest.raises(errors.InputError, match=pattern):
    extractor.load_pca(parameters)


@pytest.mark.parametrize("dim", [0, -1, 7])
def test_dimensions_that_do_not_fit(dim, parameters):
  parameters.pca_dim = dim
  with pytest.raises(
    errors.InputError, match=f"pca_dim is {dim}, .*use 1 to 6"
  ):
    extractor.load_pca(parameters)


def test_missing_file(parameters, tmp_path):
  (tmp_path / "mean.datum").unlink()
  with pytest.raises(FileNotFoundError, match="mean.datum"):
    extractor.load_pca(parameters)
