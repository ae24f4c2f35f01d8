"""Rows of the table of bad input: training of global descriptors."""

import functools
import os
import pathlib
import pickle

from delf.learning import pairs
from delf.python.datasets.sfm120k import sfm120k
from delf.python.training.global_features import build_tuples, train
from delf.records import tuples
from tests.stand_ins import full_disk, tiny_tuples

CASES = {}
_SCRIPT = "global_features/train.py"
SCRIPTS = {_SCRIPT: train, "build_tuples.py": build_tuples}


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _train(root, *more):
  return [
    _SCRIPT,
    f"--data_root={root}",
    f"--directory={root}/runs",
    "--arch=VGG16",
    "--pretrained=false",
    "--image_size=32",
    "--neg_num=3",
    "--test_datasets=",
    *more,
  ]


def _data(folder):
  tiny_tuples.write(folder)
  return folder


def _database(folder):
  return folder / "train" / sfm120k.NAME / f"{sfm120k.NAME}.pkl"


class _Code:
  def __reduce__(self):
    return os.system, ("true",)


def _with_database(folder, content):
  path = _database(_data(folder))
  path.write_bytes(pickle.dumps(content))
  return _train(folder)


@_case("training without the data set", "retrieval-SfM-120k.pkl")
def _no_database(folder):
  return _train(folder)


@_case(
  "pairs of another shape", "retrieval-SfM-120k.pkl", "'train'", "'imlist'"
)
def _another(folder):
  return _with_database(folder, {"imlist": ["a"], "qimlist": ["b"]})


@_case("pairs in a pickle that holds code", "120k.pkl", "system")
def _code(folder):
  return _with_database(folder, {"train": _Code()})


@_case("pairs of images that the file does not list", "'qidxs'", "0 to 0", "7")
def _places(folder):
  mode = {"cids": ["aaaaaa"], "cluster": [0], "qidxs": [7], "pidxs": [0]}
  return _with_database(folder, {"train": mode})


@_case("names of images that lead out of their folder", "'../../secret'")
def _outside(folder):
  mode = {"cids": ["../../secret"], "cluster": [0], "qidxs": [0], "pidxs": [0]}
  return _with_database(folder, {"train": mode})


@_case(
  "training photo that is listed and absent", "1 of the 12 photos", "missing"
)
def _absent(folder):
  data = sfm120k.CreateDataset("train", str(_data(folder)))
  pathlib.Path(data.images[3]).unlink()
  return _train(folder)


@_case("fewer other things than negatives", "4 negatives", "3 other clusters")
def _no_negatives(folder):
  return _train(_data(folder), "--neg_num=4")


@_case("triplets without negatives", "--neg_num must be 1 or more, not 0")
def _no_triplets(folder):
  return _train(_data(folder), "--neg_num=0", "--loss=triplet")


@_case("scales that are none", "--multiscale", "'[1, 0]'")
def _scales(folder):
  return _train(_data(folder), "--multiscale=[1, 0]")


@_case("data set to search that is absent", "gnd_rparis6k.pkl")
def _no_test(folder):
  return _train(_data(folder), "--test_datasets=rparis6k")


@_case("data set to search that is unknown", "roxford5k, rparis6k", "oxford5k'")
def _unknown_test(folder):
  return _train(_data(folder), "--test_datasets=oxford5k")


@_case("network of an unknown architecture", "ResNet101", "'ResNet7'")
def _architecture(folder):
  _data(folder)
  options = tiny_tuples.options(folder, architecture="ResNet7")
  return functools.partial(pairs.fit, options)


def _run(folder, **changes):
  options = tiny_tuples.options(_data(folder), epochs=1, tests=(), **changes)
  return pairs.fit(options, tiny_tuples.TinyNet).folder


@_case("new run where there is one", "--resume", "retrieval-SfM-120k_VGG16")
def _again(folder):
  _run(folder)
  options = tiny_tuples.options(folder, epochs=2, tests=())
  return functools.partial(pairs.fit, options, tiny_tuples.TinyNet)


@_case("run that goes on with another network", "checkpoint.npz", "variables")
def _other_network(folder):
  _run(folder)
  options = tiny_tuples.options(folder, epochs=2, tests=(), resume=True)
  return functools.partial(pairs.fit, options)


@_case("global training whose loss is no number", "nan in epoch 1, batch ")
def _not_finite(folder):
  return functools.partial(_run, folder, rate=1e38, optimizer="sgd")


@_case("full disk while global training is saved", "checkpoint.npz", "large")
def _full_disk(folder):
  def run():
    with full_disk.limit(1 << 12):
      _run(folder)

  return run


@_case("global training without validation data", "no mode 'val'", "'train'")
def _no_validation(folder):
  path = _database(_data(folder))
  content = pickle.loads(path.read_bytes())
  del content["val"]
  path.write_bytes(pickle.dumps(content))
  return _train(folder)


@_case("photos where retrieval-SfM-120k is", "120k.pkl", "--overwrite")
def _real_data(folder):
  return [
    "build_tuples.py",
    f"--images={_data(folder)}",
    f"--data_root={folder}",
  ]


@_case("table of photos without what they show", "a.csv", "landmark_id")
def _columns(folder):
  path = folder / "a.csv"
  path.write_text("id,url\n1,a.jpg\n")
  return ["build_tuples.py", f"--images={folder}", f"--csv={path}"]


@_case(
  "things with a photo each, to train with",
  "two photos",
  "2 groups have one each",
)
def _singles(folder):
  (folder / "a.jpg").write_bytes(b"a")
  groups = [("a", [str(folder / "a.jpg")]), ("b", [str(folder / "a.jpg")])]
  return functools.partial(
    tuples.write_tuples,
    groups,
    sfm120k.NAME,
    folder,
    validation_share=0.0,
    say=lambda _: None,
  )
