"""Rows of the table of bad input: ground truth, rankings, metrics, contests."""

import functools
import os
import pickle

import numpy as np

from delf.evaluation import ground_truth, metrics, report_card
from delf.python.datasets.google_landmarks_dataset import (
  compute_recognition_metrics,
  compute_retrieval_metrics,
)
from delf.python.datasets.revisited_op import dataset

# What -> (function of a folder, words that the line must have). The function
# returns arguments of a script, or a call of the library.
CASES = {}
SCRIPTS = {
  "compute_recognition_metrics.py": compute_recognition_metrics,
  "compute_retrieval_metrics.py": compute_retrieval_metrics,
}
_COLLECTION = ("a.jpg", "b.jpg", "c.jpg")


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _write(path, data):
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return path


class _Code:
  def __reduce__(self):
    return os.system, ("true",)


def _pickle(folder, **changes):
  content = {
    "imlist": ["a", "b", "c"],
    "qimlist": ["q"],
    "gnd": [{"easy": [0], "hard": [1], "junk": [2], "bbx": [0, 0, 9, 9]}],
  } | changes
  return _write(folder / "gnd.pkl", pickle.dumps(content))


def _truth(path, names=_COLLECTION):
  return functools.partial(ground_truth.read, path, names)


def _table(folder, *lines):
  text = "\n".join(["query,image,label", "q,a,positive", *lines])
  return _truth(_write(folder / "truth.csv", text))


@_case("ground truth pickle that holds code", "gnd.pkl", "system")
def _code(folder):
  return _truth(_pickle(folder, more=_Code()))


@_case("ground truth .mat that is no Matlab file", "gnd.mat", "Matlab")
def _no_mat(folder):
  return _truth(_write(folder / "gnd.mat", "easy, hard"))


@_case("ground truth of Oxford5k as it was", "gnd.pkl", "'ok'", "Revisited")
def _older(folder):
  return _truth(_pickle(folder, gnd=[{"ok": [0], "junk": []}]))


@_case("ground truth with ids of absent images", "gnd.pkl", "easy", "7")
def _absent_ids(folder):
  return _truth(_pickle(folder, gnd=[{"easy": [7], "hard": [], "junk": []}]))


@_case("ground truth of another collection", "gnd.pkl", "without 1", "'c'")
def _other_collection(folder):
  return _truth(_pickle(folder), ("a.jpg", "b.jpg", "z.jpg"))


@_case("collection that has the queries too", "gnd.pkl", "'q'", "Oxford5k")
def _queries_among(folder):
  return _truth(_pickle(folder), (*_COLLECTION, "q.jpg"))


@_case("table that names an absent image", "truth.csv, line 3", "'z.jpg'")
def _absent_name(folder):
  return _table(folder, "q,z.jpg,junk")


@_case("table with an unknown label", "truth.csv, line 3", "'good'")
def _label(folder):
  return _table(folder, "q,b,good")


@_case("table that labels an image twice", "truth.csv, line 3", "'a.jpg'")
def _twice(folder):
  return _table(folder, "q,a.jpg,junk")


@_case("JSON ground truth with a query twice", "truth.json", "q occurs twice")
def _json_twice(folder):
  text = '{"q": {"positive": ["a"]}, "q": {"positive": ["b"]}}'
  return _truth(_write(folder / "truth.json", text))


@_case("JSON ground truth that is cut", "truth.json", "JSON")
def _json_cut(folder):
  return _truth(_write(folder / "truth.json", '{"q": {"positive": ["a"'))


@_case("ranking with an image twice", "more than once", "query 0")
def _duplicate(folder):
  found = _table(folder)()
  ids = np.zeros([1, 3], np.int32)
  return functools.partial(metrics.evaluate, ids, found, ranks=[1])


@_case("ranking of another number of queries", "of 2 queries", "truth of 1")
def _queries(folder):
  found = _table(folder)()
  ids = np.array([[0, 1, 2]] * 2)
  return functools.partial(metrics.evaluate, ids, found, ranks=[1])


@_case("report card of features of two models", "another model")
def _two_models(folder):
  one, other = (
    {"global": {"model": m, "apply_rotation": False, "files": {}}}
    for m in ("aa", "bb")
  )
  return functools.partial(report_card.make, None, "global", one, other)


@_case("metrics file that is cut", "metrics.txt", "2 lines")
def _metrics(folder):
  path = _write(folder / "metrics.txt", "easy\n  mAP=50.0\n")
  return functools.partial(dataset.ReadMetricsFile, path)


def _contest(folder, task, solution, predictions):
  solution = _write(folder / "solution.csv", f"id,x,Usage\n{solution}\n")
  predictions = _write(folder / "predictions.csv", f"id,x\n{predictions}\n")
  return [
    f"compute_{task}_metrics.py",
    f"--solution_path={solution}",
    f"--predictions_path={predictions}",
  ]


@_case("solution with an unknown usage", "solution.csv, line 2", "Foo")
def _usage(folder):
  return _contest(folder, "recognition", "a,1,Foo", "a,1 0.5")


@_case("prediction of an unknown test image", "predictions.csv, line 2", "z")
def _unknown_test_image(folder):
  return _contest(folder, "retrieval", "a,x y,Public", "z,x")


@_case("prediction with a score of NaN", "predictions.csv, line 2", "nan")
def _nan_score(folder):
  return _contest(folder, "recognition", "a,1,Public", "a,1 nan")
