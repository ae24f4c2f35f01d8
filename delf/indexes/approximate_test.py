import json
import pathlib
import subprocess
import sys

import faiss
import numpy as np
import pytest

from delf.base import errors
from delf.formats import array_file
from delf.indexes import approximate, dense, ranking

_FUZZ = pathlib.Path(__file__).resolve().parents[2] / "tools/fuzz_index.py"
_OPTIONS = {
  "hnsw": {"links": 8, "build_depth": 40},
  "ivfpq": {"lists": 10, "probes": 4, "code_bytes": 8},
}


def _unit(number, seed=0, dimension=16):
  """Returns descriptors in 60 clusters, as those of places are."""
  random = np.random.default_rng(0)
  centres = random.normal(size=(60, dimension))
  random = np.random.default_rng(seed)
  values = centres[random.integers(60, size=number)]
  values = values + random.normal(0, 0.5, (number, dimension))
  values /= np.linalg.norm(values, axis=1, keepdims=True)
  return values.astype(np.float32)


def _names(number, prefix="a"):
  return [f"{prefix}{i}" for i in range(number)]


def _made(method, descriptors, prefix="a"):
  index = approximate.ApproximateIndex(method, **_OPTIONS[method])
  index.add(_names(len(descriptors), prefix), descriptors)
  return index


def _exact(descriptors):
  index = dense.DenseIndex()
  index.add(_names(len(descriptors)), descriptors)
  return index


def _same(one, two):
  np.testing.assert_array_equal(one.ids, two.ids)
  np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)


@pytest.mark.parametrize(
  ("method", "options", "least"),
  [
    ("hnsw", _OPTIONS["hnsw"], 0.98),
    ("ivfpq", {"lists": 10, "probes": 10, "code_bytes": 8}, 0.7),
    ("ivfpq", {"lists": 10, "probes": 10, "code_bytes": 4}, 0.5),
  ],
)
def test_finds_most_of_what_is_there(method, options, least):
  descriptors, queries = _unit(1000), _unit(20, seed=1)
  index = approximate.ApproximateIndex(method, **options)
  index.add(_names(1000), descriptors)
  found = index.search(queries, 10)
  exact = _exact(descriptors).search(queries, 10)
  assert ranking.recall(found, exact, 10) >= least
  products = np.take_along_axis(queries @ descriptors.T, found.ids, axis=1)
  atol = 1e-6 if method == "hnsw" else 0.5
  np.testing.assert_allclose(found.scores, products, atol=atol)
  assert np.all(np.diff(found.scores) <= 0)
  hasty = ranking.recall(index.search(queries, 10, effort=1), exact, 10)
  assert hasty < ranking.recall(found, exact, 10)


def test_codes_stand_for_what_faiss_says():
  index = approximate.ApproximateIndex(
    "ivfpq", lists=10, probes=10, code_bytes=4
  )
  descriptors = _unit(600)
  index.add(_names(600), descriptors)
  native = index._vectors.index
  native.make_direct_map()
  stored = native.reconstruct_n(0, 600)
  found = index.search(_unit(5, seed=1), 600)
  products = np.take_along_axis(_unit(5, seed=1) @ stored.T, found.ids, axis=1)
  np.testing.assert_allclose(found.scores, products, atol=1e-5)
  assert np.array_equal(np.sort(found.ids, axis=1)[0], np.arange(600))


@pytest.mark.parametrize(("method", "options"), _OPTIONS.items())
def test_saved_and_loaded(tmp_path, method, options):
  index = approximate.ApproximateIndex(method, **options)
  index.add(_names(401), [*_unit(400), None])
  path = tmp_path / "a"
  index.save(path)
  loaded = approximate.ApproximateIndex.load(path, verify=True)
  assert (loaded.names, loaded.dimension) == (index.names, 16)
  queries = _unit(6, seed=1)
  _same(loaded.search(queries, 20), index.search(queries, 20))
  loaded.add(["b"], _unit(1, seed=2))
  assert loaded.search(_unit(1, seed=2), 1).ids.tolist() == [[401]]
  loaded.save(path)
  assert len(approximate.ApproximateIndex.load(path)) == 402


@pytest.mark.parametrize("method", approximate.METHODS)
@pytest.mark.parametrize("removed", [3, 300])
def test_removed_images_are_found_no_more(tmp_path, method, removed):
  descriptors = _unit(400)
  index = _made(method, [*descriptors[:50], None, *descriptors[50:]])
  queries = _unit(30, seed=1)
  order = index.search(queries, 1).ids[:, 0]
  gone = {f"a{i}" for i in order[:3]} | {
    f"a{i}" for i in range(60, 57 + removed)
  }
  index.remove(sorted(gone))
  left = [f"a{i}" for i in range(401) if f"a{i}" not in gone]
  assert index.names == left
  index.save(tmp_path / "a")
  for each in (index, approximate.ApproximateIndex.load(tmp_path / "a")):
    found = each.search(queries, 5)
    for row, (ids, scores) in enumerate(
      zip(found.ids, found.scores, strict=True)
    ):
      rows = [int(left[i][1:]) for i in ids if i >= 0]
      rows = [i - (i > 50) for i in rows]
      expected = descriptors[rows] @ queries[row]
      atol = 1e-6 if method == "hnsw" else 0.6
      np.testing.assert_allclose(scores[: len(rows)], expected, atol=atol)


def test_merged_graphs_find_both():
  one, two = _made("hnsw", _unit(300)), _made("hnsw", _unit(200, 1), "b")
  two.remove(["b7"])
  one.merge(two)
  empty = approximate.ApproximateIndex("hnsw", **_OPTIONS["hnsw"])
  empty.merge(one)
  both = np.delete(np.concatenate([_unit(300), _unit(200, 1)]), 307, axis=0)
  exact = _exact(both).search(_unit(20, 2), 10)
  for index in (one, empty):
    assert len(index) == 499
    assert ranking.recall(index.search(_unit(20, 2), 10), exact, 10) > 0.95


def test_merged_codes_are_of_one_training(tmp_path):
  index = approximate.ApproximateIndex("ivfpq", **_OPTIONS["ivfpq"])
  index.train(_unit(500))
  index.save(tmp_path / "trained")
  one = approximate.ApproximateIndex.load(tmp_path / "trained")
  two = approximate.ApproximateIndex.load(tmp_path / "trained")
  one.add(_names(100), _unit(100, 1))
  two.add(_names(50, "b"), _unit(50, 2))
  one.merge(two)
  index.add([*_names(100), *_names(50, "b")], [*_unit(100, 1), *_unit(50, 2)])
  _same(one.search(_unit(5, 3), 10), index.search(_unit(5, 3), 10))
  with pytest.raises(errors.InputError, match="trained separately"):
    one.merge(_made("ivfpq", _unit(300), "c"))
  assert len(one) == 150


def test_what_has_no_descriptor_is_not_found():
  index = _made("hnsw", [None, *_unit(3), []])
  found = index.search([None, _unit(1)[0]], 4)
  assert found.ids[0].tolist() == [-1, -1, -1, -1]
  assert sorted(found.ids[1].tolist()) == [-1, 1, 2, 3]
  assert found.scores[1, 3] == -np.inf


def test_more_effort_than_images_is_all_of_them():
  index, vectors = _made("hnsw", _unit(50)), _unit(50)
  found = index.search(vectors, 3, effort=1 << 40)
  assert found.ids[:, 0].tolist() == list(range(50))


def test_nothing_at_all(tmp_path):
  index = approximate.ApproximateIndex("hnsw")
  index.add(["a"], [None])
  index.save(tmp_path / "a")
  index = approximate.ApproximateIndex.load(tmp_path / "a")
  assert index.search(_unit(1), 2).ids.tolist() == [[-1, -1]]


def test_what_cannot_be_done():
  index = _made("hnsw", _unit(5))
  wrong = approximate.ApproximateIndex("hnsw", links=9)
  short = _made("hnsw", _unit(5, dimension=8), "b")
  cases = [
    (lambda: index.add(["a0"], _unit(1)), "already in the index: 'a0'"),
    (lambda: index.add(["b"], _unit(1, dimension=8)), "dimension 16"),
    (lambda: index.add(["b"], np.full([1, 16], np.nan)), "finite"),
    (lambda: index.search(_unit(1, dimension=8), 1), "dimension 16"),
    (lambda: index.search(_unit(1), 0), "over 0"),
    (lambda: index.search(_unit(1), 1, 0), "effort must be over 0, not 0"),
    (lambda: index.remove(["x"]), "not in the index: 'x'"),
    (lambda: index.merge(wrong), "same options"),
    (lambda: index.merge(index), "already in the index: 'a0'"),
    (lambda: index.merge(short), "dimension 8 .* of dimension 16"),
    (lambda: index.train(_unit(300)), "an empty index .* not 5 images"),
    (lambda: _made("ivfpq", _unit(20)), "^20 descriptors .* at least 256"),
    (lambda: approximate.ApproximateIndex("lsh"), "hnsw or ivfpq, not 'lsh'"),
    (lambda: approximate.ApproximateIndex("hnsw", probes=3), "options of hnsw"),
    (
      lambda: approximate.ApproximateIndex("hnsw", links=0),
      "links must be 2 to 65536, not 0",
    ),
    (
      lambda: approximate.ApproximateIndex("ivfpq", probes=0),
      "probes must be over 0, not 0",
    ),
  ]
  for call, words in cases:
    with pytest.raises(errors.InputError, match=words):
      call()
  assert index.names == _names(5)
  codes = approximate.ApproximateIndex("ivfpq", code_bytes=5)
  with pytest.raises(errors.InputError, match="divide the dimension 16, .* 5"):
    codes.add(_names(300), _unit(300))
  assert len(codes) == 0


def _changed(tmp_path, method, header=None, native=None, **changes):
  """Writes an index whose arrays, or whose faiss index, functions change."""
  path = tmp_path / "a.index"
  _made(method, _unit(300)).save(path)
  old, arrays = array_file.read(path, "approximate index")
  arrays = {name: np.array(array) for name, array in arrays.items()}
  if native:
    index = faiss.deserialize_index(arrays["faiss"])
    native(index)
    arrays["faiss"] = faiss.serialize_index(index)
  for name, change in changes.items():
    arrays[name] = change(arrays[name])
    if arrays[name] is None:
      del arrays[name]
  array_file.write(path, "approximate index", old | (header or {}), arrays)
  return path


def _set(place, value):
  def change(array):
    array[place] = value
    return array

  return change


def _graph(**changes):
  """Changes arrays of a graph by functions, and its fields to values."""

  def change(index):
    for name, change in changes.items():
      old = getattr(index.hnsw, name)
      if callable(change):
        new = change(faiss.vector_to_array(old))
        faiss.copy_array_to_vector(new, old)
      else:
        setattr(index.hnsw, name, change)

  return change


def _upper_link(index):
  """Links an image at a level to one that has no links there."""
  levels = faiss.vector_to_array(index.hnsw.levels)
  neighbors = faiss.vector_to_array(index.hnsw.neighbors)
  high = np.flatnonzero(levels > 1)[0]
  start = 8 * (levels[:high].sum() + high) + 16
  neighbors[start] = np.flatnonzero(levels == 1)[-1]
  faiss.copy_array_to_vector(neighbors, index.hnsw.neighbors)


def _tall(index):
  """States more levels than faiss has a table of, and all their links."""
  for name, array in (
    ("levels", np.full([300], 30, np.int32)),
    ("neighbors", np.zeros([300 * 8 * 31], np.int32)),
    ("offsets", 8 * 31 * np.arange(301, dtype=np.uint64)),
  ):
    faiss.copy_array_to_vector(array, getattr(index.hnsw, name))


def _low_entry(index):
  levels = faiss.vector_to_array(index.hnsw.levels)
  index.hnsw.entry_point = int(np.argmin(levels))


def _vector(index):
  """Gives an image a vector that is not finite."""
  storage = faiss.downcast_index(index.storage)
  values = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
  values[3] = np.nan


def _other(index_of):
  """Puts another faiss index in place."""

  def change(_):
    index = index_of()
    index.train(_unit(300))
    index.add(_unit(300))
    return faiss.serialize_index(index)

  return change


def _field(**values):
  def change(index):
    for name, value in values.items():
      setattr(index, name, value)

  return change


def _centroid(index):
  faiss.copy_array_to_vector(
    np.full([8 * 256 * 2], np.inf, np.float32), index.pq.centroids
  )


def _list(get):
  """Sets the first value of the first list of codes or ids."""

  def change(index):
    pointer = get(index.invlists)
    faiss.rev_swig_ptr(pointer, 1)[0] = 300

  return change


def _missing(index):
  index.remove_ids(np.arange(3))


_METRIC = faiss.METRIC_INNER_PRODUCT


@pytest.mark.parametrize(
  ("method", "changes"),
  [
    ("hnsw", {"native": _graph(neighbors=_set(5, 300))}),
    ("hnsw", {"native": _graph(neighbors=_set(5, -2))}),
    ("hnsw", {"native": _upper_link}),
    ("hnsw", {"native": _graph(neighbors=lambda a: a[:-1])}),
    ("hnsw", {"native": _graph(offsets=_set(5, 1 << 40))}),
    ("hnsw", {"native": _graph(offsets=lambda a: a[:-1])}),
    ("hnsw", {"native": _graph(levels=_set(3, 0))}),
    ("hnsw", {"native": _graph(levels=_set(3, 50))}),
    ("hnsw", {"native": _tall}),
    ("hnsw", {"native": _graph(entry_point=300)}),
    ("hnsw", {"native": _graph(entry_point=-1)}),
    ("hnsw", {"native": _graph(max_level=9)}),
    ("hnsw", {"native": _graph(max_level=-1)}),
    ("hnsw", {"native": _low_entry}),
    ("hnsw", {"native": _vector}),
    ("hnsw", {"native": _field(ntotal=299)}),
    ("hnsw", {"native": _field(d=15)}),
    ("hnsw", {"native": _field(metric_type=faiss.METRIC_L2)}),
    ("hnsw", {"faiss": _other(lambda: faiss.IndexHNSWFlat(16, 9, _METRIC))}),
    ("hnsw", {"faiss": _other(lambda: faiss.IndexHNSWFlat(16, 8))}),
    ("hnsw", {"faiss": _other(lambda: faiss.IndexHNSWSQ(16, 3, 8, _METRIC))}),
    ("hnsw", {"faiss": _other(lambda: faiss.IndexFlatIP(16))}),
    ("hnsw", {"faiss": lambda a: a[:-1]}),
    ("hnsw", {"faiss": lambda a: a[:0]}),
    ("hnsw", {"faiss": lambda a: a.astype(np.int64)}),
    ("hnsw", {"faiss": lambda a: None}),
    ("hnsw", {"alive": lambda a: None}),
    ("hnsw", {"alive": _set(3, 0)}),
    ("hnsw", {"alive": lambda a: a[:-1]}),
    ("hnsw", {"empty": lambda a: a[:-1]}),
    ("hnsw", {"header": {"dimension": 17}}),
    ("hnsw", {"header": {"dimension": 1 << 40}}),
    ("hnsw", {"header": {"dimension": -1}}),
    ("hnsw", {"header": {"dimension": 16.0}}),
    ("hnsw", {"header": {"dimension": True}}),
    ("hnsw", {"header": {"method": "lsh"}}),
    ("hnsw", {"header": {"method": "ivfpq"}}),
    ("hnsw", {"header": {"options": {"links": 1 << 30}}}),
    ("hnsw", {"header": {"options": 3}}),
    ("ivfpq", {"native": _list(lambda lists: lists.get_ids(0))}),
    ("ivfpq", {"native": _missing}),
    ("ivfpq", {"native": _field(nlist=9)}),
    ("ivfpq", {"native": _field(by_residual=False)}),
    ("ivfpq", {"native": _field(is_trained=False)}),
    ("ivfpq", {"native": _field(ntotal=299)}),
    ("ivfpq", {"native": lambda index: index.make_direct_map()}),
    ("ivfpq", {"native": _centroid}),
    ("ivfpq", {"alive": lambda a: a[:-1]}),
    ("ivfpq", {"faiss": lambda a: None}),
    ("ivfpq", {"header": {"options": {"lists": 10, "code_bytes": 4}}}),
    ("ivfpq", {"header": {"options": {"lists": 9, "code_bytes": 8}}}),
  ],
)
def test_files_of_others(tmp_path, method, changes):
  path = _changed(tmp_path, method, **changes)
  with pytest.raises(errors.InputError, match="a.index: "):
    approximate.ApproximateIndex.load(path)


@pytest.mark.parametrize("name", ["vectors", "codes"])
def test_files_of_an_older_version(tmp_path, name):
  path = _changed(tmp_path, "hnsw", faiss=lambda a: None)
  header, arrays = array_file.read(path, "approximate index")
  arrays[name] = np.zeros([300, 16], np.float32)
  array_file.write(path, "approximate index", header, arrays)
  with pytest.raises(
    errors.InputError, match="older version .*: build it again"
  ):
    approximate.ApproximateIndex.load(path)


def test_damaged_files_are_refused_or_usable():
  command = [sys.executable, str(_FUZZ), "--number", "200"]
  run = subprocess.run(command, capture_output=True, text=True, timeout=300)
  assert run.returncode == 0, run.stdout
  counts = json.loads(run.stdout)
  for method in approximate.METHODS:
    assert min(counts[f"{method} refused"], counts[f"{method} used"]) > 10


def test_exact_indexes_are_another_kind(tmp_path):
  _exact(_unit(3)).save(tmp_path / "a")
  with pytest.raises(errors.InputError, match="not 'approximate index'"):
    approximate.ApproximateIndex.load(tmp_path / "a")


def test_recall_by_hand():
  exact = ranking.Ranking(np.int32([[1, 2, 3], [4, 5, -1]]), None)
  found = ranking.Ranking(np.int32([[2, 9, 1], [-1, 5, 4]]), None)
  assert ranking.recall(found, exact, 3) == 4 / 5
  assert ranking.recall(found, exact, 1) == 0
  assert ranking.recall(exact, exact, 3) == 1
