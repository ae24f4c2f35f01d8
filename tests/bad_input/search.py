"""Rows of the table of bad input: `delf index`, `delf search`, `delf eval`."""

import contextlib
import io
import json
import shutil

import numpy as np
import PIL.Image

from delf.aggregation import visual_words
from delf.cli import main
from delf.python import datum_io, feature_io

# What -> (function of a folder and a model, words that the line must have).
CASES = {}
_NAMES = ("a", "b", "c")


def _case(what, *words):
  def register(make):
    CASES[what] = (make, words)
    return make

  return register


def _write(folder, name, dimension=8, value=1.0):
  """Writes the feature files of an image."""
  random = np.random.default_rng(sum(name.encode()))
  vector = random.random([5]).astype(np.float32)
  datum_io.WriteToFile(vector * value, str(folder / f"{name}.delg_global"))
  ones = np.ones([12])
  feature_io.WriteToFile(
    str(folder / f"{name}.delf"),
    random.random([12, 2]) * 50,
    ones,
    random.random([12, dimension]),
    ones,
  )


def _index(folder, *more, names=_NAMES):
  """Makes an index of feature files; returns its folder."""
  for name in names:
    _write(folder, name)
  out = folder.parent / "my.index"
  with contextlib.redirect_stdout(io.StringIO()):
    status = main.main(["index", str(folder), "--out", str(out), *more])
  assert status == 0
  return out


def _codebook(folder, dimension=8):
  prefix = str(folder.parent / "codebook" / "codebook")
  centers = np.random.default_rng(2).random([4, dimension])
  visual_words.write_codebook(prefix, centers.astype(np.float32))
  return ["--codebook", prefix]


def _queries(folder, *names, **options):
  queries = folder.parent / "queries"
  queries.mkdir(exist_ok=True)
  for name in names:
    _write(queries, name, **options)
  return queries


def _search(index, queries, *more):
  return ["search", str(index), str(queries), *map(str, more)]


@_case("index: no photos and no features", "in", "images")
def _empty_folder(folder, model):
  return ["index", str(folder), "--out", str(folder.parent / "my.index")]


@_case("index: descriptor with NaN", "b.delg_global", "finite")
def _nan(folder, model):
  for name in _NAMES:
    _write(folder, name, value=np.nan if name == "b" else 1.0)
  return ["index", str(folder), "--out", str(folder.parent / "my.index")]


@_case("index: features of another dimension", "b.delf", "8", "6")
def _other_dimension(folder, model):
  for name in _NAMES:
    _write(folder, name, dimension=6 if name == "b" else 8)
  out = str(folder.parent / "my.index")
  return ["index", str(folder), "--out", out, *_codebook(folder)]


@_case("index: no codebook", "none.index", "no such checkpoint")
def _no_codebook(folder, model):
  _write(folder, "a")
  out, none = folder.parent / "my.index", folder / "none"
  return ["index", str(folder), "--out", str(out), "--codebook", str(none)]


@_case("index: removing an unknown image", "no image", "'zebra'")
def _remove(folder, model):
  return ["index", "--out", str(_index(folder)), "--remove", "zebra"]


@_case("index: merging a name that is in both", "'a'", "both")
def _merge_same(folder, model):
  index = _index(folder)
  other = folder.parent / "other"
  other.mkdir()
  for name in ("a", "x"):
    _write(other, name)
  out = str(folder.parent / "other.index")
  with contextlib.redirect_stdout(io.StringIO()):
    main.main(["index", str(other), "--out", out])
  return ["index", "--out", str(index), "--merge", out]


@_case("search: no index", "nowhere.index", "no such index")
def _no_index(folder, model):
  return _search(folder / "nowhere.index", _queries(folder, "q"))


@_case("search: folder that is no index", "delf index", "collection.json")
def _not_an_index(folder, model):
  return _search(folder, _queries(folder, "q"))


@_case("search: index that is cut", "global.index", "a whole index")
def _cut(folder, model):
  index = _index(folder)
  data = (index / "global.index").read_bytes()
  (index / "global.index").write_bytes(data[:-20])
  return _search(index, _queries(folder, "q"))


@_case("search: index of a newer version", "collection.json", "newer delf")
def _newer(folder, model):
  index = _index(folder)
  record = json.loads((index / "collection.json").read_text())
  text = json.dumps(record | {"version": 9})
  (index / "collection.json").write_text(text)
  return _search(index, _queries(folder, "q"))


@_case("search: query of another dimension", "dimension 5", "3")
def _query_dimension(folder, model):
  queries = _queries(folder, "q")
  vector = np.ones([3], np.float32)
  datum_io.WriteToFile(vector, str(queries / "q.delg_global"))
  return _search(_index(folder), queries)


@_case("search: query with NaN", "q.delg_global", "finite")
def _query_nan(folder, model):
  return _search(_index(folder), _queries(folder, "q", value=np.nan))


@_case("search: query without words", "q", "no local features")
def _no_words(folder, model):
  queries = _queries(folder, "q")
  none = np.zeros([0])
  path = str(queries / "q.delf")
  feature_io.WriteToFile(path, np.zeros([0, 2]), none, none[:, None], none)
  index = _index(folder, *_codebook(folder))
  return _search(index, queries, "--method", "words")


@_case("search: words of an index without", "--codebook", "global")
def _no_words_index(folder, model):
  queries = _queries(folder, "q")
  return _search(_index(folder), queries, "--method", "words")


@_case("search: photos, and an index of features", "--model", "my.index")
def _photos(folder, model):
  photo = folder.parent / "photo.png"
  PIL.Image.new("RGB", (40, 40)).save(photo)
  return _search(_index(folder), photo)


@_case("search: matching images without features", "b.delf", "no such file")
def _lost_features(folder, model):
  index = _index(folder)
  (folder / "b.delf").unlink()
  return _search(index, _queries(folder, "q"), "--rerank")


def _eval(folder, text, *more, name="truth.csv"):
  path = folder.parent / name
  path.write_text(text)
  queries = _queries(folder, "q")
  return [
    *("eval", str(path), "--index", str(_index(folder))),
    *("--queries", str(queries), "--out", str(folder.parent / "out"), *more),
  ]


@_case("eval: ground truth that names absent images", "truth.csv", "zebra")
def _absent(folder, model):
  return _eval(folder, "query,image,label\nq,zebra,positive\n")


@_case("eval: query without features", "lack features", "q2")
def _query_missing(folder, model):
  return _eval(folder, "query,image,label\nq,a,positive\nq2,b,positive\n")


@_case("eval: ground truth of another data set", "without 2", "x")
def _other_truth(folder, model):
  truth = {"imlist": ["a", "x", "y"], "qimlist": ["q"]}
  truth["gnd"] = [{"easy": [0], "hard": [], "junk": []}]
  return _eval(folder, json.dumps(truth), name="truth.json")


@_case(
  "eval: published data set that is not there", "gnd_roxford5k", "no such file"
)
def _not_downloaded(folder, model):
  out = str(folder.parent / "out")
  return ["eval", "roxford5k", "--images", str(folder), "--out", out]


@_case("eval: no index and no images", "needs images or an index")
def _nothing(folder, model):
  shutil.copy(__file__, folder / "truth.csv")
  out = str(folder.parent / "out")
  return ["eval", str(folder / "truth.csv"), "--out", out]
