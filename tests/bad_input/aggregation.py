"""Bad input of codebooks and aggregation, as cases of the table."""

import json
import pickle

import numpy as np

from delf.aggregation import aggregate_files, visual_words
from delf.formats import checkpoints, configs
from delf.python import feature_io
from delf.python.detect_to_retrieve import extract_aggregation

# Name of a script -> its module.
SCRIPTS = {"extract_aggregation.py": extract_aggregation}
# What -> (function (folder) -> argv, words that the line has).
CASES = {}

_WORDS, _DIMENSION = 10, 6


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _noise(*shape):
  generator = np.random.default_rng(0)
  return generator.standard_normal(shape).astype(np.float32)


def _features(folder, dimension=_DIMENSION, value=1.0):
  descriptors = _noise(5, dimension)
  descriptors[2, 1] *= value
  ones, path = np.ones([5]), folder / "a.delf"
  feature_io.WriteToFile(path, np.ones([5, 2]), ones, descriptors, ones)
  return path


def _codebook(folder):
  """Writes a good codebook; returns its prefix."""
  prefix = folder.parent / "codebook"
  visual_words.write_codebook(prefix, _noise(_WORDS, _DIMENSION))
  return prefix


def _aggregate(folder, config="", **flags):
  """Returns the arguments that aggregate `a.delf` of a folder."""
  prefix = folder.parent / "codebook"
  settings = folder.parent / "aggregation.pbtxt"
  settings.write_text(
    f"codebook_size: {_WORDS} feature_dimensionality: {_DIMENSION}"
    f' codebook_path: "{prefix}" {config}'
  )
  truth = [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 9, 9]}]
  content = {"imlist": ["a"], "qimlist": ["q"], "gnd": truth}
  dataset = folder.parent / "gnd.pkl"
  dataset.write_bytes(pickle.dumps(content))
  flags = {
    "aggregation_config_path": settings,
    "dataset_file_path": dataset,
    "features_dir": folder,
    "output_aggregation_dir": folder.parent / "out",
  } | flags
  return ["extract_aggregation.py", *(f"--{k}={v}" for k, v in flags.items())]


@_case("aggregation without a codebook", "codebook.index")
def _no_codebook(folder):
  _features(folder)
  return _aggregate(folder)


@_case("codebook of another size", "[11, 6]", "[10, 6]")
def _codebook_size(folder):
  _features(folder)
  _codebook(folder)
  return _aggregate(folder, config="codebook_size: 11")


@_case("codebook of another dimension", "[10, 7]", "[10, 6]")
def _codebook_dimension(folder):
  _features(folder, dimension=7)
  _codebook(folder)
  return _aggregate(folder, config="feature_dimensionality: 7")


@_case("codebook with NaN", "codebook", "NaN", "first: 3")
def _codebook_nan(folder):
  import tensorflow as tf

  _features(folder)
  centers = _noise(_WORDS, _DIMENSION)
  centers[3] = np.nan
  checkpoints.write(folder.parent / "codebook", codebook=tf.Variable(centers))
  return _aggregate(folder)


@_case("checkpoint that is no codebook", "clusters", "kernel")
def _other_checkpoint(folder):
  import tensorflow as tf

  _features(folder)
  checkpoints.write(folder.parent / "codebook", kernel=tf.Variable([1.0]))
  return _aggregate(folder)


@_case("codebook whose file is cut", "codebook.data", "240 bytes")
def _cut_codebook(folder):
  _features(folder)
  path = _codebook(folder).with_suffix(".data-00000-of-00001")
  path.write_bytes(path.read_bytes()[:100])
  return _aggregate(folder)


@_case("more words for each feature than there are", "num_assignments", "11")
def _assignments(folder):
  _features(folder)
  _codebook(folder)
  return _aggregate(folder, config="num_assignments: 11")


@_case("aggregation of no kind", "aggregation_type", "Invalid")
def _no_kind(folder):
  _features(folder)
  _codebook(folder)
  return _aggregate(folder, config="aggregation_type: INVALID")


@_case("features of another dimension than the codebook", "a.delf", "6", "7")
def _features_dimension(folder):
  _features(folder, dimension=7)
  _codebook(folder)
  return _aggregate(folder)


@_case("features with NaN for aggregation", "a.delf", "NaN")
def _features_nan(folder):
  _features(folder, value=np.nan)
  _codebook(folder)
  return _aggregate(folder)


@_case("feature file that is missing for aggregation", "a.delf", "no such file")
def _no_features(folder):
  _codebook(folder)
  return _aggregate(folder)


@_case("feature file that is cut for aggregation", "a.delf", "truncated")
def _cut_features(folder):
  path = _features(folder)
  path.write_bytes(path.read_bytes()[:-5])
  _codebook(folder)
  return _aggregate(folder)


@_case("folder of features that is missing", "nowhere")
def _no_folder(folder):
  _codebook(folder)
  return _aggregate(folder, features_dir=folder / "nowhere")


@_case("aggregation of a name that leads elsewhere", "'../a'", "below")
def _elsewhere(folder):
  argv = _aggregate(folder)
  truth = {"easy": [0], "hard": [], "junk": []}
  content = {"imlist": ["../a"], "qimlist": ["q"], "gnd": [truth]}
  (folder.parent / "gnd.pkl").write_bytes(pickle.dumps(content))
  return argv


@_case("mapping of regions to an image that is not there", "line 2", "'1'")
def _mapping_id(folder):
  _features(folder)
  _codebook(folder)
  path = folder.parent / "mapping.csv"
  path.write_text("name,index_image_id,box_id\na,1,-1\n")
  return _aggregate(folder, index_mapping_path=path)


@_case(
  "mapping that names a region without features", "a_7.delf", "no such file"
)
def _mapping_absent(folder):
  _features(folder)
  _codebook(folder)
  path = folder.parent / "mapping.csv"
  path.write_text("name,index_image_id,box_id\na,0,-1\na_7,0,6\n")
  return _aggregate(folder, index_mapping_path=path)


@_case("mapping of regions without its columns", "index_image_id", "image")
def _mapping_columns(folder):
  _features(folder)
  _codebook(folder)
  path = folder.parent / "mapping.csv"
  path.write_text("image,box\na,-1\n")
  return _aggregate(folder, index_mapping_path=path)


@_case(
  "folder of aggregates of other settings",
  "num_assignments 3, not 1",
  "folder",
)
def _other_settings(folder):
  _features(folder)
  _codebook(folder)
  argv = _aggregate(folder, config="num_assignments: 3")
  config = configs.read_aggregation_config(argv[1].split("=")[1])
  record = aggregate_files.describe(config, _noise(_WORDS, _DIMENSION))
  out = folder.parent / "out"
  out.mkdir()
  (out / aggregate_files.RECORD).write_text(json.dumps({".asmk_star": record}))
  return _aggregate(folder)
