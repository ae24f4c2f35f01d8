"""Rows of the table of bad input: retrieval on a data set, by the scripts."""

import json

import numpy as np

from delf.aggregation import aggregate
from delf.python import datum_io, feature_io
from delf.python.delg import perform_retrieval as delg_retrieval
from delf.python.detect_to_retrieve import perform_retrieval as d2r_retrieval

# What -> (function of a folder that returns arguments, words of the line).
CASES = {}
_DELG, _D2R = "delg/perform_retrieval.py", "d2r/perform_retrieval.py"
SCRIPTS = {_DELG: delg_retrieval, _D2R: d2r_retrieval}

_NAMES = ("q", "a", "b", "c")
_CONFIG = """codebook_size: 4
feature_dimensionality: 8
aggregation_type: {kind}
codebook_path: "codebook"
"""


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _local(path, dimension=8, value=1.0):
  random = np.random.default_rng(4)
  descriptors = random.random([9, dimension])
  descriptors[2, 1] *= value
  ones = np.ones([9])
  feature_io.WriteToFile(
    str(path), ones[:, None] * [1, 2], ones, descriptors, ones
  )


def _global(path, values=(0.6, 0.8)):
  datum_io.WriteToFile(np.array(values, np.float32), path)


def _truth(folder, **changes):
  content = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0], "hard": [1], "junk": [2]}],
  } | changes
  path = folder / "gnd.json"
  path.write_text(json.dumps(content))
  return path


def _delg(folder, *more, **changes):
  """Writes all that the script reads; returns its arguments."""
  for name in _NAMES:
    _global(folder / f"{name}.delg_global")
    _local(folder / f"{name}.delg_local")
  return [
    _DELG,
    f"--dataset_file_path={_truth(folder, **changes)}",
    f"--query_features_dir={folder}",
    f"--index_features_dir={folder}",
    f"--output_dir={folder.parent / 'out'}",
    *more,
  ]


def _d2r(folder, kinds=("ASMK", "ASMK"), *more):
  """Writes all that the script reads; returns its arguments."""
  one = np.ones([1, 8], np.float32)
  for name in _NAMES:
    found = aggregate.Aggregated(one, np.array([2], np.int32))
    aggregate.write(folder / f"{name}.asmk", found)
    _local(folder / f"{name}.delf")
  arguments = [_D2R, f"--dataset_file_path={_truth(folder)}", *more]
  for side, kind in zip(("query", "index"), kinds, strict=True):
    config = folder / f"{side}.pbtxt"
    config.write_text(_CONFIG.format(kind=kind))
    arguments += [
      f"--{side}_aggregation_config_path={config}",
      f"--{side}_aggregation_dir={folder}",
      f"--{side}_features_dir={folder}",
    ]
  return [*arguments, f"--output_dir={folder.parent / 'out'}"]


_VERIFY = "--use_geometric_verification"


@_case(
  "retrieval with ground truth that is missing", "gnd.json", "no such file"
)
def _no_truth(folder):
  argv = _delg(folder)
  (folder / "gnd.json").unlink()
  return argv


@_case("retrieval with ground truth of absent images", "gnd.json", "7")
def _absent(folder):
  return _delg(folder, gnd=[{"easy": [7], "hard": [1], "junk": [2]}])


@_case("retrieval with ground truth without queries", "gnd.json", "0")
def _no_queries(folder):
  return _delg(folder, qimlist=[], gnd=[])


@_case("retrieval without a query's descriptor", "q.delg_global")
def _no_query(folder):
  argv = _delg(folder)
  (folder / "q.delg_global").unlink()
  return argv


@_case("retrieval without an index image's descriptor", "b.delg_global")
def _no_image(folder):
  argv = _delg(folder)
  (folder / "b.delg_global").unlink()
  return argv


@_case("retrieval with a folder that is missing", "nowhere")
def _no_folder(folder):
  return _delg(folder, f"--query_features_dir={folder / 'nowhere'}")


@_case("retrieval with a descriptor of another size", "b.delg_global", "2", "3")
def _other_size(folder):
  argv = _delg(folder)
  _global(folder / "b.delg_global", (1, 2, 3))
  return argv


@_case("retrieval with a query of another size", "q.delg_global", "2", "3")
def _other_query_size(folder):
  argv = _delg(folder)
  _global(folder / "q.delg_global", (1, 2, 3))
  return argv


@_case("retrieval with a descriptor of NaN", "b.delg_global", "NaN")
def _nan(folder):
  argv = _delg(folder)
  _global(folder / "b.delg_global", (1, np.nan))
  return argv


@_case("retrieval with a descriptor file that is cut", "b.delg_global")
def _cut(folder):
  argv, path = _delg(folder), folder / "b.delg_global"
  path.write_bytes(path.read_bytes()[:-3])
  return argv


@_case("verification without a query's local features", "q.delg_local")
def _no_query_local(folder):
  argv = _delg(folder, _VERIFY)
  (folder / "q.delg_local").unlink()
  return argv


def _results(folder):
  """Has the metrics written beside: verified as far as it goes."""
  return f"--output_dir={folder.parent / 'results'}"


@_case("verification without an image's features", "b.delg_local", "no such")
def _no_local(folder):
  argv = _delg(folder, _VERIFY, _results(folder))
  (folder / "b.delg_local").unlink()
  return argv


@_case(
  "verification with a feature file that is cut", "b.delg_local", "truncated"
)
def _cut_local(folder):
  argv, path = _delg(folder, _VERIFY, _results(folder)), folder / "b.delg_local"
  path.write_bytes(path.read_bytes()[:-7])
  return argv


@_case("verification of local features of two sizes", "b.delg_local", "8", "9")
def _local_size(folder):
  argv = _delg(folder, _VERIFY, _results(folder))
  _local(folder / "b.delg_local", dimension=9)
  return argv


@_case("verification of local features with NaN", "b.delg_local", "NaN")
def _local_nan(folder):
  argv = _delg(folder, _VERIFY, _results(folder))
  _local(folder / "b.delg_local", value=np.nan)
  return argv


@_case("verification with a threshold of zero", "residual_threshold", "0.0")
def _threshold(folder):
  return _delg(folder, _VERIFY, "--ransac_residual_threshold=0")


@_case("retrieval into a folder that is a file", "out", "exists")
def _out_is_a_file(folder):
  (folder.parent / "out").write_text("mine")
  return _delg(folder)


@_case("retrieval without a query's aggregate", "q.asmk")
def _no_aggregate(folder):
  argv = _d2r(folder)
  (folder / "q.asmk").unlink()
  return argv


@_case("retrieval with an aggregate of another size", "b.asmk", "8")
def _aggregate_size(folder):
  argv = _d2r(folder)
  wide = aggregate.Aggregated(
    np.ones([1, 9], np.float32), np.array([2], np.int32)
  )
  aggregate.write(folder / "b.asmk", wide)
  return argv


@_case("retrieval with an aggregate of another codebook", "b.asmk", "4")
def _aggregate_word(folder):
  argv = _d2r(folder)
  other = aggregate.Aggregated(
    np.ones([1, 8], np.float32), np.array([4], np.int32)
  )
  aggregate.write(folder / "b.asmk", other)
  return argv


@_case("retrieval with aggregates of two types", "asmk", "vlad")
def _two_types(folder):
  return _d2r(folder, ("VLAD", "ASMK"))


@_case("verification of aggregates without a query's features", "q.delf")
def _no_delf(folder):
  argv = _d2r(folder, ("ASMK", "ASMK"), _VERIFY)
  (folder / "q.delf").unlink()
  return argv
