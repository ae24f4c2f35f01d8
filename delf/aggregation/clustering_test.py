import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from delf.aggregation import clustering, kmeans, visual_words
from delf.base import errors
from delf.python import datum_io, feature_io

# A run that ends itself, as `kill -9` does, at a given file operation.
_KILLED = """
import json, os, signal, sys
from delf.aggregation import clustering
clustering._RECORD_INTERVAL = -1
paths, codebook, options, end = json.loads(sys.argv[1])
seen = 0
def count(event, args):
  global seen
  if event in ("open", "os.rename") and ".unfinished" in str(args[0]):
    seen += 1
    if seen == end:
      os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
clustering.cluster_files(paths, codebook, save_interval=0, **options)
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp("features")
  generator = np.random.default_rng(0)
  centers = generator.standard_normal((40, 8))
  found = []
  for i in range(12):
    number = int(generator.integers(0, 120))
    descriptors = centers[generator.integers(0, 40, number)]
    descriptors = descriptors + 0.1 * generator.standard_normal((number, 8))
    found.append(str(folder / f"{i}.delf"))
    feature_io.WriteToFile(
      found[-1],
      np.zeros([number, 2]),
      np.ones([number]),
      descriptors,
      np.ones([number]),
    )
  return found


def _read(prefix):
  return np.array(visual_words.read_codebook(str(prefix)))


def test_a_codebook_of_files(paths, tmp_path):
  prefix = tmp_path / "deep" / "codebook"
  # Paths of either type.
  mixed = [pathlib.Path(paths[0]), *paths[1:]]
  report = clustering.cluster_files(mixed, prefix, num_clusters=16)
  features = [feature_io.ReadFromFile(path)[2] for path in paths]
  features = np.concatenate([each for each in features if len(each)])
  wanted = kmeans.train(features, 16)
  np.testing.assert_array_equal(_read(prefix), wanted.centers)
  assert report.objectives == wanted.objectives
  assert report.features == report.features_seen == len(features)
  assert "16 words of 8 values" in report.summary()
  names = sorted(os.listdir(prefix.parent))
  assert names == [
    "codebook.data-00000-of-00001",
    "codebook.index",
    "codebook.json",
  ]
  described = json.loads((prefix.parent / "codebook.json").read_text())
  assert described["objectives"] == list(wanted.objectives)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_a_killed_run_goes_on_to_the_same_codebook(paths, tmp_path, method):
  options = {
    "num_clusters": 24,
    "num_iterations": 6,
    "max_features": 300,
    "method": method,
    "seed": 5,
  }
  clustering.cluster_files(paths, tmp_path / "whole" / "codebook", **options)
  prefix = tmp_path / "killed" / "codebook"
  job = [paths, str(prefix), options]
  ends = np.random.default_rng().integers(2, 30, 3).tolist()
  for end in ends:
    command = [sys.executable, "-c", _KILLED, json.dumps([*job, end])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode in (-signal.SIGKILL, 0), run.stderr
    if run.returncode == 0:
      break
  else:
    assert not prefix.with_suffix(".index").exists()
    clustering.cluster_files(paths, prefix, **options)
  np.testing.assert_array_equal(
    _read(prefix), _read(tmp_path / "whole" / "codebook"), err_msg=str(ends)
  )
  assert not pathlib.Path(f"{prefix}.unfinished").exists()


def test_a_finished_codebook_is_refused(paths, tmp_path):
  prefix = tmp_path / "codebook"
  clustering.cluster_files(paths, prefix, num_clusters=4, num_iterations=1)
  before = _read(prefix)
  left = tmp_path / "codebook.unfinished" / "state.npz"
  left.parent.mkdir()
  left.write_bytes(b"")
  with pytest.raises(errors.InputError, match="finished"):
    clustering.cluster_files(paths, prefix, num_clusters=4, num_iterations=1)
  np.testing.assert_array_equal(_read(prefix), before)
  assert not left.parent.exists()


@pytest.fixture
def unfinished(paths, tmp_path, monkeypatch):
  """Prefix of a run of 4 words that ended after two steps."""
  step = kmeans.step

  def fails(features, state, method):
    if state.iteration == 2:
      raise KeyboardInterrupt
    return step(features, state, method)

  with monkeypatch.context() as patch:
    patch.setattr(kmeans, "step", fails)
    with pytest.raises(KeyboardInterrupt):
      clustering.cluster_files(
        paths, tmp_path / "codebook", num_clusters=4, save_interval=0
      )
  return tmp_path / "codebook"


def test_what_was_done_is_not_done_again(paths, unfinished, monkeypatch):
  monkeypatch.setattr(kmeans, "start", None)
  report = clustering.cluster_files(paths, unfinished, num_clusters=4)
  assert len(report.objectives) > 2


def test_other_settings_are_refused(paths, unfinished):
  folder = pathlib.Path(f"{unfinished}.unfinished")
  with pytest.raises(errors.InputError, match="with num_clusters 4, not 5"):
    clustering.cluster_files(paths, unfinished, num_clusters=5)
  with pytest.raises(errors.InputError, match="run with feature files"):
    clustering.cluster_files(paths[1:], unfinished, num_clusters=4)
  (folder / "settings.json").write_bytes(b"[1]")
  with pytest.raises(errors.InputError, match="unfinished"):
    clustering.cluster_files(paths, unfinished, num_clusters=4)


def test_a_damaged_state_is_refused(paths, unfinished):
  path = pathlib.Path(f"{unfinished}.unfinished") / "state.npz"
  data = path.read_bytes()
  for bad in (b"", b"x" * 100, data[:-60], data[:90] + b"\1" + data[91:]):
    path.write_bytes(bad)
    with pytest.raises(errors.InputError, match=r"state\.npz"):
      clustering.cluster_files(paths, unfinished, num_clusters=4)


def test_a_state_of_labels(tmp_path):
  state = kmeans.State(
    np.eye(3, dtype=np.float32), np.array([2, 1], np.int32), (0.1,), (7,), True
  )
  state.write(tmp_path / "state.npz")
  found = kmeans.State.read(tmp_path / "state.npz")
  np.testing.assert_array_equal(found.centers, state.centers)
  np.testing.assert_array_equal(found.labels, state.labels)
  assert found.objectives == (0.1,)
  assert found.moved == (7,)
  assert found.converged


def test_too_few_features_and_bad_files(paths, tmp_path):
  bad = tmp_path / "bad.delf"
  bad.write_bytes(b"x")
  with pytest.raises(
    errors.InputError, match=r"^[0-9]+ .* 5000 words; .*bad\.delf"
  ):
    clustering.cluster_files(
      [*paths, str(bad)], tmp_path / "codebook", num_clusters=5000
    )
  report = clustering.cluster_files(
    [*paths, str(bad)], tmp_path / "other", num_clusters=4, num_iterations=1
  )
  assert [failure.path for failure in report.failed] == [str(bad)]


@pytest.mark.parametrize(
  ("option", "value"),
  [
    ("num_iterations", 0),
    ("num_clusters", 0),
    ("max_features", 0),
    ("seed", -1),
  ],
)
def test_options_that_cannot_be(paths, tmp_path, option, value):
  with pytest.raises(
    errors.InputError, match=f"{option} must be at least .*{value}"
  ):
    clustering.cluster_files(paths, tmp_path / "c", **{option: value})
  assert not list(tmp_path.glob("c*"))


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
def paths_feature_pool(tmp_path):
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


def test_all_features_in_order(paths_feature_pool, tmp_path):
  pool = clustering.gather(paths_feature_pool, tmp_path / "pool")
  assert pool.features.shape == (134, 5)
  assert pool.seen == 134
  np.testing.assert_array_equal(pool.features[:, 0], np.arange(134))
  assert pool.failures == ()


def test_a_sample_has_no_feature_twice(paths_feature_pool, tmp_path):
  pool = clustering.gather(paths_feature_pool, tmp_path / "pool", limit=50)
  assert pool.features.shape == (50, 5)
  assert pool.seen == 134
  assert len(np.unique(pool.features[:, 0])) == 50


def test_each_feature_has_the_same_chance(paths_feature_pool, tmp_path):
  counts = np.zeros([134])
  for seed in range(300):
    pool = clustering.gather(paths_feature_pool, tmp_path / f"{seed}", 40, seed)
    counts[pool.features[:, 0].astype(int)] += 1
  expected = 300 * 40 / 134
  # Four standard deviations of a binomial count, for each and for the halves.
  assert abs(counts - expected).max() < 4 * np.sqrt(expected)
  assert abs(counts[:67].mean() - expected) < 2.5


@pytest.mark.parametrize("limit", [None, 50, 134, 1000])
def test_going_on_gives_the_same(
  paths_feature_pool, tmp_path, monkeypatch, limit
):
  wanted = clustering.gather(
    paths_feature_pool, tmp_path / "whole", limit, seed=3
  )
  monkeypatch.setattr(clustering, "_RECORD_INTERVAL", -1)
  read = clustering.Reader.read
  for stop in range(len(paths_feature_pool)):
    calls = iter(range(100))

    def fails(reader, path, calls=calls, stop=stop):
      if next(calls) == stop:
        raise RuntimeError
      return read(reader, path)

    folder = tmp_path / f"cut{stop}"
    monkeypatch.setattr(clustering.Reader, "read", fails)
    with pytest.raises(RuntimeError):
      clustering.gather(paths_feature_pool, folder, limit, seed=3)
    # As if more had been written than was recorded.
    with open(folder / "features.f32", "ab") as file:
      file.write(b"x" * 20)
    monkeypatch.setattr(clustering.Reader, "read", read)
    found = clustering.gather(paths_feature_pool, folder, limit, seed=3)
    np.testing.assert_array_equal(found.features, wanted.features)
    assert found.seen == wanted.seen


def test_bad_files_are_left_out_and_named(paths_feature_pool, tmp_path):
  nan = _write(tmp_path / "nan.delf", np.full([2, 5], np.nan))
  other = _write(tmp_path / "other.delf", np.zeros([2, 4]))
  cut = tmp_path / "cut.delf"
  cut.write_bytes(pathlib.Path(paths_feature_pool[0]).read_bytes()[:-3])
  bad = [nan, other, str(cut), str(tmp_path / "missing.delf")]
  pool = clustering.gather(
    [*paths_feature_pool[:1], *bad, *paths_feature_pool[1:]], tmp_path / "pool"
  )
  np.testing.assert_array_equal(pool.features[:, 0], np.arange(134))
  assert [failure.path for failure in pool.failures] == bad
  reasons = " ".join(failure.reason for failure in pool.failures)
  for words in ("NaN", "5 values", "truncated", "no such file"):
    assert words in reasons
  again = clustering.gather(
    [*paths_feature_pool[:1], *bad, *paths_feature_pool[1:]], tmp_path / "pool"
  )
  assert again.failures == pool.failures


def test_no_features_at_all(tmp_path):
  empty = _write(tmp_path / "a.delf", np.zeros([0, 4]))
  pool = clustering.gather([empty], tmp_path / "pool")
  assert pool.features.shape == (0, 0)


def test_files_of_a_folder(paths_feature_pool, tmp_path):
  assert clustering.find(tmp_path) == paths_feature_pool
  with pytest.raises(errors.InputError, match="no feature files .*delg_global"):
    clustering.find(tmp_path, clustering.GLOBAL)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    clustering.find(tmp_path / "nowhere")


def test_global_descriptors(tmp_path):
  for i in range(3):
    datum_io.WriteToFile(np.full([4], float(i)), tmp_path / f"{i}.delg_global")
  datum_io.WriteToFile(np.zeros([2, 2]), tmp_path / "flat.delg_global")
  found = clustering.find(tmp_path, clustering.GLOBAL)
  pool = clustering.gather(found, tmp_path / "pool")
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
def test_what_is_left_of_a_run_is_damaged(
  paths_feature_pool, tmp_path, name, data
):
  clustering.gather(paths_feature_pool, tmp_path / "pool")
  path = tmp_path / "pool" / name
  path.unlink()
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(errors.InputError, match=f"{name}.*to restart"):
    clustering.gather(paths_feature_pool, tmp_path / "pool")
