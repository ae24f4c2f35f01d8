import pathlib

import numpy as np
import pytest

from delf.python import datum_io, errors, feature_io
from delf.python.pipelines import feature_files, feature_pool


def _write(path, descriptors):
  number = len(descriptors)
  feature_io.WriteToFile(
    path,
    np.zeros([number, 2]),
    np.ones([number]),
    descriptors,
    np.ones([number]),
  )
  return str(path)


@pytest.fixture
def paths(tmp_path):
  """Files of 0 to 40 features; the first value of each is its number."""
  generator = np.random.default_rng(0)
  counts = [7, 0, 40, 13, 1, 25, 30, 18]
  numbers = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
  found = []
  for i, each in enumerate(numbers):
    descriptors = generator.standard_normal((len(each), 5))
    descriptors[:, 0] = each
    found.append(_write(tmp_path / f"{i}.delf", descriptors))
  return found


def test_all_features_in_order(paths, tmp_path):
  pool = feature_pool.gather(paths, tmp_path / "pool")
  assert pool.features.shape == (134, 5)
  assert pool.seen == 134
  np.testing.assert_array_equal(pool.features[:, 0], np.arange(134))
  assert pool.failures == ()


def test_a_sample_has_no_feature_twice(paths, tmp_path):
  pool = feature_pool.gather(paths, tmp_path / "pool", limit=50)
  assert pool.features.shape == (50, 5)
  assert pool.seen == 134
  assert len(np.unique(pool.features[:, 0])) == 50


def test_each_feature_has_the_same_chance(paths, tmp_path):
  counts = np.zeros([134])
  for seed in range(300):
    pool = feature_pool.gather(paths, tmp_path / f"{seed}", 40, seed)
    counts[pool.features[:, 0].astype(int)] += 1
  expected = 300 * 40 / 134
  # Four standard deviations of a binomial count, for each and for the halves.
  assert abs(counts - expected).max() < 4 * np.sqrt(expected)
  assert abs(counts[:67].mean() - expected) < 2.5


@pytest.mark.parametrize("limit", [None, 50, 134, 1000])
def test_going_on_gives_the_same(paths, tmp_path, monkeypatch, limit):
  wanted = feature_pool.gather(paths, tmp_path / "whole", limit, seed=3)
  monkeypatch.setattr(feature_pool, "_RECORD_INTERVAL", -1)
  read = feature_files.Reader.read
  for stop in range(len(paths)):
    calls = iter(range(100))

    def fails(reader, path, calls=calls, stop=stop):
      if next(calls) == stop:
        raise RuntimeError
      return read(reader, path)

    folder = tmp_path / f"cut{stop}"
    monkeypatch.setattr(feature_files.Reader, "read", fails)
    with pytest.raises(RuntimeError):
      feature_pool.gather(paths, folder, limit, seed=3)
    # As if more had been written than was recorded.
    with open(folder / "features.f32", "ab") as file:
      file.write(b"x" * 20)
    monkeypatch.setattr(feature_files.Reader, "read", read)
    found = feature_pool.gather(paths, folder, limit, seed=3)
    np.testing.assert_array_equal(found.features, wanted.features)
    assert found.seen == wanted.seen


def test_bad_files_are_left_out_and_named(paths, tmp_path):
  nan = _write(tmp_path / "nan.delf", np.full([2, 5], np.nan))
  other = _write(tmp_path / "other.delf", np.zeros([2, 4]))
  cut = tmp_path / "cut.delf"
  cut.write_bytes(pathlib.Path(paths[0]).read_bytes()[:-3])
  bad = [nan, other, str(cut), str(tmp_path / "missing.delf")]
  pool = feature_pool.gather([*paths[:1], *bad, *paths[1:]], tmp_path / "pool")
  np.testing.assert_array_equal(pool.features[:, 0], np.arange(134))
  assert [failure.path for failure in pool.failures] == bad
  reasons = " ".join(failure.reason for failure in pool.failures)
  for words in ("NaN", "5 values", "cut", "found none"):
    assert words in reasons
  again = feature_pool.gather([*paths[:1], *bad, *paths[1:]], tmp_path / "pool")
  assert again.failures == pool.failures


def test_no_features_at_all(tmp_path):
  empty = _write(tmp_path / "a.delf", np.zeros([0, 4]))
  pool = feature_pool.gather([empty], tmp_path / "pool")
  assert pool.features.shape == (0, 0)


def test_files_of_a_folder(paths, tmp_path):
  assert feature_files.find(tmp_path) == paths
  with pytest.raises(errors.InputError, match="delg_global"):
    feature_files.find(tmp_path, feature_files.GLOBAL)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    feature_files.find(tmp_path / "nowhere")


def test_global_descriptors(tmp_path):
  for i in range(3):
    datum_io.WriteToFile(np.full([4], float(i)), tmp_path / f"{i}.delg_global")
  datum_io.WriteToFile(np.zeros([2, 2]), tmp_path / "flat.delg_global")
  found = feature_files.find(tmp_path, feature_files.GLOBAL)
  pool = feature_pool.gather(found, tmp_path / "pool")
  np.testing.assert_array_equal(pool.features[:, 0], [0, 1, 2])
  assert "[2, 2]" in pool.failures[0].reason


@pytest.mark.parametrize(
  ("name", "data"),
  [
    ("features.json", b"{"),
    ("features.json", b'{"no": 1}'),
    ("features.json", b"[]"),
    ("features.f32", b"cut"),
    ("features.f32", None),
  ],
)
def test_what_is_left_of_a_run_is_damaged(paths, tmp_path, name, data):
  feature_pool.gather(paths, tmp_path / "pool")
  path = tmp_path / "pool" / name
  path.unlink()
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(errors.InputError, match=f"{name}.*begins anew"):
    feature_pool.gather(paths, tmp_path / "pool")
