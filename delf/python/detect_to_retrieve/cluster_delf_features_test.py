import pickle

import numpy as np
import pytest

from delf.aggregation import kmeans, visual_words
from delf.cli import scripts
from delf.python import feature_io
from delf.python.detect_to_retrieve import cluster_delf_features as script


def _write(path, descriptors):
  number = len(descriptors)
  feature_io.WriteToFile(
    path,
    np.zeros([number, 2]),
    np.ones([number]),
    descriptors,
    np.ones([number]),
  )


@pytest.fixture
def features(tmp_path):
  """Descriptors of three index images whose files are in a folder."""
  generator = np.random.default_rng(0)
  found = generator.standard_normal((3, 30, 6)).astype(np.float32)
  folder = tmp_path / "features"
  _write(folder / "a.delf", found[0])
  _write(folder / "b_0.delf", found[1])  # Whole image, where boxes are too.
  _write(folder / "b_1.delf", found[1] + 100)
  _write(folder / "c.delf", found[2])
  _write(folder / "other.delf", found[2] + 100)
  truth = [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 9, 9]}]
  content = {"imlist": ["a", "b", "c"], "qimlist": ["q"], "gnd": truth}
  (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
  return found.reshape([-1, 6])


def _run(tmp_path, *more):
  argv = [
    "cluster_delf_features.py",
    f"--dataset_file_path={tmp_path / 'gnd.pkl'}",
    f"--features_dir={tmp_path / 'features'}",
    f"--output_cluster_dir={tmp_path / 'out'}",
    *more,
  ]
  with pytest.raises(SystemExit) as error:
    scripts.run(script.main, script.define_flags, argv)
  return error.value.code


def test_whole_images_of_the_index(features, tmp_path, capsys):
  assert not _run(tmp_path, "--num_clusters=5", "--num_iterations=7")
  wanted = kmeans.train(features, 5, 7)
  found = visual_words.read_codebook(str(tmp_path / "out" / "codebook"))
  np.testing.assert_array_equal(found, wanted.centers)
  assert "5 words of 6 values from 90 features" in capsys.readouterr().out
  # As in the original, a finished folder is not touched again.
  assert _run(tmp_path, "--num_clusters=5") == 1
  err = capsys.readouterr().err
  assert "finished" in err
  assert err.count("\n") == 1


def test_a_missing_file_is_named_and_the_rest_clustered(
  features, tmp_path, capsys
):
  (tmp_path / "features" / "c.delf").unlink()
  assert _run(tmp_path, "--num_clusters=5", "--max_features=40") == 1
  out, err = capsys.readouterr()
  assert "from 40 of 60 features" in out
  assert err.startswith(str(tmp_path / "features" / "c.delf"))
  assert visual_words.read_codebook(str(tmp_path / "out")).shape == (5, 6)


def test_more_words_than_features(features, tmp_path, capsys):
  assert _run(tmp_path, "--num_clusters=91") == 1
  assert "90 features are too few for 91 words" in capsys.readouterr().err
  # Nothing is in the way of fewer.
  assert not _run(tmp_path, "--num_clusters=90", "--num_iterations=1")
