import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from delf.python import codebook_io, errors, feature_io
from delf.python.pipelines import cluster, cluster_state
from delf.python.retrieval import clustering

# A run that ends itself, as `kill -9` does, at a given file operation.
_KILLED = """
import json, os, signal, sys
from delf.python.pipelines import cluster, feature_pool
feature_pool._RECORD_INTERVAL = -1
paths, codebook, options, end = json.loads(sys.argv[1])
seen = 0
def count(event, args):
  global seen
  if event in ("open", "os.rename") and ".unfinished" in str(args[0]):
    seen += 1
    if seen == end:
      os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
cluster.cluster_files(paths, codebook, save_interval=0, **options)
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
  return np.array(codebook_io.read_codebook(str(prefix)))


def test_a_codebook_of_files(paths, tmp_path):
  prefix = tmp_path / "deep" / "codebook"
  # Paths of either type.
  mixed = [pathlib.Path(paths[0]), *paths[1:]]
  report = cluster.cluster_files(mixed, prefix, num_clusters=16)
  features = [feature_io.ReadFromFile(path)[2] for path in paths]
  features = np.concatenate([each for each in features if len(each)])
  wanted = clustering.train(features, 16)
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


@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_a_killed_run_goes_on_to_the_same_codebook(paths, tmp_path, method):
  options = {
    "num_clusters": 24,
    "num_iterations": 6,
    "max_features": 300,
    "method": method,
    "seed": 5,
  }
  cluster.cluster_files(paths, tmp_path / "whole" / "codebook", **options)
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
    cluster.cluster_files(paths, prefix, **options)
  np.testing.assert_array_equal(
    _read(prefix), _read(tmp_path / "whole" / "codebook"), err_msg=str(ends)
  )
  assert not pathlib.Path(f"{prefix}.unfinished").exists()


def test_a_finished_codebook_is_refused(paths, tmp_path):
  prefix = tmp_path / "codebook"
  cluster.cluster_files(paths, prefix, num_clusters=4, num_iterations=1)
  before = _read(prefix)
  left = tmp_path / "codebook.unfinished" / "state.npz"
  left.parent.mkdir()
  left.write_bytes(b"")
  with pytest.raises(errors.InputError, match="finished"):
    cluster.cluster_files(paths, prefix, num_clusters=4, num_iterations=1)
  np.testing.assert_array_equal(_read(prefix), before)
  assert not left.parent.exists()


@pytest.fixture
def unfinished(paths, tmp_path, monkeypatch):
  """Prefix of a run of 4 words that ended after two steps."""
  step = clustering.step

  def fails(features, state, method):
    if state.iteration == 2:
      raise KeyboardInterrupt
    return step(features, state, method)

  with monkeypatch.context() as patch:
    patch.setattr(clustering, "step", fails)
    with pytest.raises(KeyboardInterrupt):
      cluster.cluster_files(
        paths, tmp_path / "codebook", num_clusters=4, save_interval=0
      )
  return tmp_path / "codebook"


def test_what_was_done_is_not_done_again(paths, unfinished, monkeypatch):
  monkeypatch.setattr(clustering, "start", None)
  report = cluster.cluster_files(paths, unfinished, num_clusters=4)
  assert len(report.objectives) > 2


def test_other_settings_are_refused(paths, unfinished):
  folder = pathlib.Path(f"{unfinished}.unfinished")
  with pytest.raises(errors.InputError, match="same num_clusters"):
    cluster.cluster_files(paths, unfinished, num_clusters=5)
  with pytest.raises(errors.InputError, match="same feature files"):
    cluster.cluster_files(paths[1:], unfinished, num_clusters=4)
  (folder / "settings.json").write_bytes(b"[1]")
  with pytest.raises(errors.InputError, match="unfinished"):
    cluster.cluster_files(paths, unfinished, num_clusters=4)


def test_a_damaged_state_is_refused(paths, unfinished):
  path = pathlib.Path(f"{unfinished}.unfinished") / "state.npz"
  data = path.read_bytes()
  for bad in (b"", b"x" * 100, data[:-60], data[:90] + b"\1" + data[91:]):
    path.write_bytes(bad)
    with pytest.raises(errors.InputError, match=r"state\.npz"):
      cluster.cluster_files(paths, unfinished, num_clusters=4)


def test_a_state_of_labels(tmp_path):
  state = clustering.State(
    np.eye(3, dtype=np.float32), np.array([2, 1], np.int32), (0.1,), (7,), True
  )
  cluster_state.write(tmp_path / "state.npz", state)
  found = cluster_state.read(tmp_path / "state.npz")
  np.testing.assert_array_equal(found.centers, state.centers)
  np.testing.assert_array_equal(found.labels, state.labels)
  assert found.objectives == (0.1,)
  assert found.moved == (7,)
  assert found.converged


def test_too_few_features_and_bad_files(paths, tmp_path):
  bad = tmp_path / "bad.delf"
  bad.write_bytes(b"x")
  with pytest.raises(errors.InputError, match=r"5000.*bad\.delf"):
    cluster.cluster_files(
      [*paths, str(bad)], tmp_path / "codebook", num_clusters=5000
    )
  report = cluster.cluster_files(
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
  with pytest.raises(errors.InputError, match=f"{option} of at least"):
    cluster.cluster_files(paths, tmp_path / "c", **{option: value})
  assert not list(tmp_path.glob("c*"))
