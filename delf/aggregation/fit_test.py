import numpy as np
import pytest
from google.protobuf import text_format

from delf.aggregation import clustering, fit
from delf.base import errors
from delf.inference import extractor
from delf.protos import delf_config_pb2
from delf.python import datum_io, feature_io, whiten


def _local(path, descriptors):
  number = len(descriptors)
  feature_io.WriteToFile(
    path,
    np.zeros([number, 2]),
    np.ones([number]),
    descriptors,
    np.ones([number]),
  )
  return str(path)


def test_a_pca_that_extraction_reads(tmp_path):
  generator = np.random.default_rng(0)
  parts = generator.standard_normal((3, 200, 5)) * [9, 5, 3, 1, 0.1] + 4
  paths = [_local(tmp_path / f"{i}.delf", part) for i, part in enumerate(parts)]
  report = fit.fit_pca(paths, tmp_path / "pca", dim=2)
  parameters = text_format.Parse(
    (tmp_path / "pca" / "pca_parameters.pbtxt").read_text(),
    delf_config_pb2.DelfPcaParameters(),
  )
  assert parameters.pca_dim == 2
  parameters.use_whitening = True
  loaded = extractor.load_pca(parameters)
  whole = parts.reshape([-1, 5])
  whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)
  np.testing.assert_allclose(loaded.mean, whole.mean(axis=0), atol=1e-6)
  projected = extractor.project(
    whole, loaded.mean, loaded.matrix.T, loaded.variances
  )
  np.testing.assert_allclose(np.cov(projected.T), np.eye(2), atol=0.01)
  variances = np.sort(np.linalg.eigvalsh(np.cov(whole.T)))[::-1]
  wanted = np.cumsum(variances) / variances.sum()
  np.testing.assert_allclose(report.kept, wanted, atol=1e-5)
  assert (report.dimension, report.descriptors) == (5, 600)
  with pytest.raises(errors.InputError, match="mean.datum"):
    fit.fit_pca(paths, tmp_path / "pca")
  report = fit.fit_pca(paths, tmp_path / "pca", overwrite=True)
  assert report.kept[report.pca_dim - 1] >= 0.95
  assert report.pca_dim == 1 or report.kept[report.pca_dim - 2] < 0.95


def test_what_no_pca_is_made_of(tmp_path):
  path = _local(tmp_path / "a.delf", np.eye(5))
  with pytest.raises(errors.InputError, match="more than 5 descriptors, not 5"):
    fit.fit_pca([path], tmp_path / "pca")
  bad = _local(tmp_path / "b.delf", np.full([9, 5], np.nan))
  with pytest.raises(errors.InputError, match="NaN"):
    fit.fit_pca([bad], tmp_path / "pca")
  many = _local(tmp_path / "c.delf", np.random.default_rng(0).random((9, 5)))
  with pytest.raises(errors.InputError, match="1 to 5, not 6"):
    fit.fit_pca([many], tmp_path / "pca", dim=6)
  assert not (tmp_path / "pca").exists()
  report = fit.fit_pca([many, bad], tmp_path / "pca")
  assert [failure.path for failure in report.failed] == [bad]


def _globals(folder, number=30, size=4):
  """Writes pairs `<i>/a`, `<i>/b`; returns their names."""
  generator = np.random.default_rng(0)
  names = []
  for i in range(number):
    descriptor = generator.standard_normal(size)
    for name in ("a", "b"):
      names.append(f"{i:02}/{name}")
      other = descriptor + 0.1 * generator.standard_normal(size)
      datum_io.WriteToFile(other, folder / f"{names[-1]}.delg_global")
  return names


def test_a_whitening_of_folders(tmp_path):
  names = _globals(tmp_path / "features")
  sources = fit.find([str(tmp_path / "features")], clustering.GLOBAL)
  assert sources.names == names
  pairs = fit.from_folders(sources.names)
  np.testing.assert_array_equal(pairs, np.arange(60).reshape([30, 2]))
  output = tmp_path / "my.whitening"
  report = fit.fit_whitening(sources.paths, pairs, output)
  assert (report.dimension, report.descriptors, report.pairs) == (4, 60, 30)
  columns = np.stack(
    [datum_io.ReadFromFile(path) for path in sources.paths], axis=1
  )
  wanted = whiten.learn_whitening(columns, pairs[:, 0], pairs[:, 1])
  found = whiten.read_whitening(output)
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)
  with pytest.raises(errors.InputError, match="my.whitening"):
    fit.fit_whitening(sources.paths, pairs, output)


def test_a_whitening_of_what_is_left(tmp_path):
  _globals(tmp_path)
  paths = clustering.find(tmp_path, clustering.GLOBAL)
  pairs = np.arange(60).reshape([30, 2])
  bad = tmp_path / "00" / "a.delg_global"
  bad.write_bytes(b"x")
  report = fit.fit_whitening(paths, pairs, tmp_path / "w")
  assert report.pairs == 29
  assert [failure.path for failure in report.failed] == [str(bad)]
  with pytest.raises(errors.InputError, match="at least 4 pairs.* not 3"):
    fit.fit_whitening(paths, pairs[:4], tmp_path / "w2")


def test_pairs_of_files(tmp_path):
  names = ["x/1", "x/2", "3", "4"]
  path = tmp_path / "pairs.csv"
  path.write_text("first,second\nx/1.jpg,x/2\n3,4.jpg\n4,missing\n")
  found = fit.from_pairs(path, names)
  np.testing.assert_array_equal(found, [[0, 1], [2, 3]])
  path.write_text("name,group\nx/1,a\n3.jpg,a\nx/2,b\n4,a,more\n")
  found = fit.from_groups(path, names)
  np.testing.assert_array_equal(found, [[0, 2], [0, 3], [2, 3]])


def test_a_large_group_has_some_of_its_pairs():
  found = fit.from_folders([f"a/{i}" for i in range(100)] + ["b", "c"])
  assert found.shape == (500, 2)
  assert (found[:, 0] < found[:, 1]).all()
  assert len(np.unique(found, axis=0)) == 500
  assert found.max() == 99


@pytest.mark.parametrize(
  ("read", "content", "words"),
  [
    (fit.from_pairs, "a,b\n", "pair of the images, such as x/1"),
    (fit.from_pairs, "x/1\n", "row 1 .*'x/1'"),
    (fit.from_pairs, "", "pair of the images"),
    (fit.from_groups, "x/1,g\ny,h\n", "no group has two or more"),
    (fit.from_groups, "x/1;g\n", "row 1 needs two values"),
  ],
)
def test_what_has_no_pairs(tmp_path, read, content, words):
  path = tmp_path / "list.csv"
  path.write_text(content)
  with pytest.raises(errors.InputError, match=words):
    read(path, ["x/1", "y"])
  with pytest.raises(
    errors.InputError, match="no folder has two or more images"
  ):
    fit.from_folders(["x/1", "y", "z"])


def test_components_of_descriptors_in_parts():
  generator = np.random.default_rng(0)
  spread = np.array([5.0, 3.0, 1.0, 0.2])
  turn = np.linalg.qr(generator.standard_normal((4, 4)))[0]
  descriptors = generator.standard_normal((5000, 4)) * spread @ turn + 1000
  moments = fit.Moments()
  for part in np.split(descriptors, [0, 1, 700, 4000]):
    moments.add(part)
  found = moments.parameters()
  np.testing.assert_allclose(found.mean, descriptors.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(found.variances, spread**2, rtol=0.06)
  assert (np.abs((found.matrix * turn).sum(axis=1)) > 0.995).all()
  assert (found.matrix.max(axis=1) >= -found.matrix.min(axis=1)).all()
  projected = extractor.project(
    descriptors - 1000, found.mean - 1000, found.matrix.T, found.variances
  )
  np.testing.assert_allclose(np.cov(projected.T), np.eye(4), atol=1e-2)


@pytest.mark.parametrize("number", [0, 1, 4])
def test_too_few_descriptors_for_components(number):
  moments = fit.Moments()
  moments.add(np.zeros([number, 4]))
  with pytest.raises(
    errors.InputError, match=r"more than [04] descriptors, not"
  ):
    moments.parameters()
