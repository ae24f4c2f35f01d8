"""Rows of the table of bad input: parameters fitted to features."""

import pickle

import numpy as np

from delf.aggregation import visual_words
from delf.python import datum_io, feature_io
from delf.python.detect_to_retrieve import cluster_delf_features

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}
_SCRIPT = "cluster_delf_features.py"
SCRIPTS = {_SCRIPT: cluster_delf_features}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _local(path, number=9, dimension=4, value=1.0):
  descriptors = np.random.default_rng(2).random([number, dimension])
  descriptors[0] *= value
  ones = np.ones([number])
  locations = ones[:, np.newaxis] * [1, 2]
  feature_io.WriteToFile(str(path), locations, ones, descriptors, ones)


def _globals(folder, number=3, dimension=4):
  generator = np.random.default_rng(2)
  for i in range(number):
    path = folder / "one" / f"{i}.delg_global"
    datum_io.WriteToFile(generator.random([dimension]), path)


def _fit(folder, kind, *more, out="out"):
  sources = [str(folder)] if not more or str(more[0])[0] == "-" else []
  out = ["--out", str(folder.parent / out)]
  return ["fit", kind, *sources, *map(str, more), *out]


@_case("codebook of fewer features than words", "10", "9")
def _few(folder):
  _local(folder / "a.delf")
  return _fit(folder, "codebook", "--words", 10, out="out/codebook")


@_case("codebook of features with NaN", "a.delf", "NaN")
def _nan(folder):
  _local(folder / "a.delf", value=np.nan)
  return _fit(folder, "codebook", "--words", 1, out="out/codebook")


@_case("codebook of a feature file that is cut", "a.delf", "truncated")
def _cut(folder):
  _local(folder / "a.delf")
  data = (folder / "a.delf").read_bytes()
  (folder / "a.delf").write_bytes(data[:-5])
  return _fit(folder, "codebook", "--words", 1, out="out/codebook")


@_case("codebook where a finished one is", "finished", "codebook")
def _finished(folder):
  _local(folder / "a.delf")
  visual_words.write_codebook(str(folder.parent / "codebook"), np.eye(2))
  return _fit(folder, "codebook", out="codebook")


@_case("codebook that others are unfinished of", "num_clusters", "7")
def _other_settings(folder):
  _local(folder / "a.delf")
  record = folder.parent / "codebook.unfinished" / "settings.json"
  record.parent.mkdir()
  path = folder / "a.delf"
  argv = _fit(folder, "codebook", "--words", 8, out="codebook")
  from delf.aggregation import clustering

  clustering._claim(
    record.parent, [str(path)], clustering.ClusterOptions(num_clusters=7)
  )
  return argv


@_case("codebook whose saved state is damaged", "state.npz", "damaged")
def _damaged(folder):
  _local(folder / "a.delf")
  state = folder.parent / "codebook.unfinished" / "state.npz"
  state.parent.mkdir()
  state.write_bytes(b"PK\x03\x04")
  return _fit(folder, "codebook", "--words", 2, out="codebook")


@_case("codebook of features that are not local", "local", "global")
def _kind(folder):
  _globals(folder)
  return _fit(folder, "codebook", out="out/codebook")


@_case("codebook of a folder that is missing", "nowhere")
def _missing(folder):
  return _fit(folder, "codebook", folder / "nowhere", out="out/codebook")


@_case("codebook of an empty folder", "images", "in")
def _empty(folder):
  return _fit(folder, "codebook", out="out/codebook")


@_case("PCA of features and photos together", "both")
def _both(folder):
  _local(folder / "a.delf")
  (folder / "b").mkdir()
  (folder / "b" / "b.jpg").write_bytes(b"")
  return _fit(folder, "pca", folder, folder / "b")


@_case("PCA of fewer features than dimensions", "4", "3")
def _pca_few(folder):
  _local(folder / "a.delf", number=3)
  return _fit(folder, "pca")


@_case("PCA of more components than dimensions", "1 to 4", "5")
def _pca_dim(folder):
  _local(folder / "a.delf")
  return _fit(folder, "pca", "--dim", 5)


@_case("PCA where one is", "mean.datum", "overwrite")
def _pca_there(folder):
  _local(folder / "a.delf")
  datum_io.WriteToFile(np.zeros([4]), folder.parent / "pca" / "mean.datum")
  return _fit(folder, "pca", out="pca")


@_case("whitening of fewer pairs than dimensions", "at least 4 pairs", "3")
def _pairs_few(folder):
  _globals(folder)
  return _fit(folder, "whitening")


@_case("whitening without pairs", "--pairs", "--groups")
def _pairs_none(folder):
  datum_io.WriteToFile(np.ones([4]), folder / "a.delg_global")
  return _fit(folder, "whitening")


@_case("whitening of pairs of one value", "pairs.csv", "row 2")
def _pairs_bad(folder):
  _globals(folder)
  path = folder / "pairs.csv"
  path.write_text("one/0,one/1\none/2\n")
  return _fit(folder, "whitening", "--pairs", path)


@_case("whitening of pairs of other images", "pairs.csv", "one/0")
def _pairs_other(folder):
  _globals(folder)
  path = folder / "pairs.csv"
  path.write_text("a,b\n")
  return _fit(folder, "whitening", "--pairs", path)


@_case("whitening with a file of groups that is missing", "groups.csv")
def _groups_missing(folder):
  _globals(folder)
  return _fit(folder, "whitening", "--groups", folder / "groups.csv")


def _script(folder, *more):
  truth = {
    "imlist": ["a"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0], "hard": [], "junk": []}],
  }
  (folder / "gnd.pkl").write_bytes(pickle.dumps(truth))
  return [
    _SCRIPT,
    f"--dataset_file_path={folder / 'gnd.pkl'}",
    f"--features_dir={folder}",
    f"--output_cluster_dir={folder.parent / 'out'}",
    *more,
  ]


@_case("clustering script without a feature file", "a.delf", "no such file")
def _script_missing(folder):
  return _script(folder)


@_case("clustering script with no iterations", "iteration", "0")
def _script_iterations(folder):
  _local(folder / "a.delf")
  return _script(folder, "--num_clusters=2", "--num_iterations=0")


@_case("clustering script with a data set that is missing", "nowhere.mat")
def _script_dataset(folder):
  return _script(folder, f"--dataset_file_path={folder / 'nowhere.mat'}")
