import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from delf.base import errors
from delf.formats import array_file
from delf.indexes import dense, ranking


def _unit(number, dimension=8, seed=0):
  values = np.random.default_rng(seed).normal(size=(number, dimension))
  values /= np.linalg.norm(values, axis=1, keepdims=True)
  return values.astype(np.float32)


def _names(number, prefix="a"):
  return [f"{prefix}{i}" for i in range(number)]


def _index(descriptors, storage="float32", prefix="a"):
  index = dense.DenseIndex(storage)
  index.add(_names(len(descriptors), prefix), descriptors)
  return index


def _same(one, two, atol=1e-6):
  np.testing.assert_array_equal(one.ids, two.ids)
  np.testing.assert_allclose(one.scores, two.scores, atol=atol)


def test_by_hand():
  index = _index(np.float32([[1, 0], [0, 1], [0.6, 0.8]]))
  found = index.search(np.float32([[1, 0], [0, 2]]), 2)
  assert found.ids.tolist() == [[0, 2], [1, 2]]
  np.testing.assert_allclose(found.scores, [[1, 0.6], [2, 1.6]], atol=1e-6)
  assert (found.ids.dtype, found.scores.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("k", [1, 7, 499, 500, 510])
def test_blocks_find_what_one_product_finds(k, monkeypatch):
  descriptors, queries = _unit(500), _unit(9, seed=1)
  monkeypatch.setattr(dense, "_SCORES", 9 * 13)
  monkeypatch.setattr(dense, "_FIRST", 5)
  monkeypatch.setattr(dense, "_QUERIES", 4)
  plain = ranking.top_k(queries @ descriptors.T, k)
  _same(_index(descriptors).search(queries, k), plain)


def test_ties_go_to_the_lower_id(monkeypatch):
  monkeypatch.setattr(dense, "_SCORES", 2 * 11)
  random = np.random.default_rng(0)
  # Products of small integers are exact, and many are equal.
  descriptors = random.integers(-1, 2, (300, 3)).astype(np.float32)
  queries = random.integers(-1, 2, (2, 3)).astype(np.float32)
  found = _index(descriptors).search(queries, 40)
  expected = np.argsort(-(queries @ descriptors.T), axis=1, kind="stable")
  np.testing.assert_array_equal(found.ids, expected[:, :40])


def test_scores_that_rise_with_the_id(monkeypatch):
  monkeypatch.setattr(dense, "_SCORES", 10)
  index = _index(np.arange(-50, 50, dtype=np.float32)[:, None])
  found = index.search(np.float32([[1]]), 3)
  assert found.ids.tolist() == [[99, 98, 97]]
  assert found.scores.tolist() == [[49, 48, 47]]


def test_rescored_by_hand():
  descriptors = np.float32([[1, 0], [0, 1], [0.6, 0.8], [0.6, 0.8]])
  found = ranking.Ranking(
    np.int32([[3, 1, 2, 0, -1], [1, 0, -1, -1, -1]]),
    np.float32([[9, 8, 7, -np.inf, -np.inf], [5, 4, *3 * [-np.inf]]]),
  )
  queries = np.float32([[1, 1], [1, 0]])
  exact = dense.rescore(queries, found, descriptors)
  assert exact.ids.tolist() == [[2, 3, 1, 0, -1], [0, 1, -1, -1, -1]]
  expected = [[1.4, 1.4, 1, -np.inf, -np.inf], [1, 0, *3 * [-np.inf]]]
  np.testing.assert_allclose(exact.scores, expected, atol=1e-6)


def test_float16_is_near():
  descriptors, queries = _unit(200, 64), _unit(5, 64, seed=1)
  half = _index(descriptors, "float16")
  assert half.descriptors.nbytes == descriptors.nbytes // 2
  found = half.search(queries, 200)
  exact = np.take_along_axis(queries @ descriptors.T, found.ids, axis=1)
  np.testing.assert_allclose(found.scores, exact, atol=5e-4)


def test_images_and_queries_without_descriptor_come_last():
  rows = [[-1.0, 0], [], [1.0, 0], None]
  index = _index(rows)
  found = index.search([[1.0, 0], [], None], 5)
  assert found.ids[0].tolist() == [2, 0, 1, 3, -1]
  assert found.scores[0].tolist() == [1, -1, -np.inf, -np.inf, -np.inf]
  assert found.ids[1:].tolist() == 2 * [[0, 1, 2, 3, -1]]
  assert np.all(found.scores[1:] == -np.inf)
  assert index.search([[1.0, 0]], 3).ids.tolist() == [[2, 0, 1]]


def test_only_images_without_descriptor(tmp_path):
  index = _index([[], None])
  assert index.search([[1.0, 0]], 2).ids.tolist() == [[0, 1]]
  index.save(tmp_path / "a")
  index = dense.DenseIndex.load(tmp_path / "a")
  index.add(["b"], [[1.0, 0, 0]])
  assert index.dimension == 3
  assert index.search([[1.0, 0, 0]], 3).ids.tolist() == [[2, 0, 1]]
  assert index.descriptors.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_empty_index(tmp_path):
  index = dense.DenseIndex()
  found = index.search(_unit(2), 3)
  assert found.ids.tolist() == 2 * [[-1, -1, -1]]
  index.save(tmp_path / "a")
  assert len(dense.DenseIndex.load(tmp_path / "a")) == 0


@pytest.mark.parametrize("storage", dense.STORAGES)
def test_saved_and_loaded(tmp_path, storage):
  index = _index([*_unit(50), None], storage)
  index.save(tmp_path / "a")
  loaded = dense.DenseIndex.load(tmp_path / "a", verify=True)
  assert loaded.names == index.names
  assert loaded.storage == storage
  assert loaded.empty.tolist() == 50 * [False] + [True]
  assert isinstance(loaded.descriptors, np.memmap)
  _same(loaded.search(_unit(3, seed=1), 51), index.search(_unit(3, seed=1), 51))


def test_added_one_by_one_removed_and_merged(tmp_path):
  descriptors = _unit(40)
  index = dense.DenseIndex()
  for i in range(30):
    index.add([f"a{i}"], descriptors[i : i + 1])
  index.save(tmp_path / "a")
  index = dense.DenseIndex.load(tmp_path / "a")
  index.merge(_index(descriptors[30:], prefix="b"))
  index.remove(["a3", "b9", "a29", "a4"])
  index.save(tmp_path / "a")
  kept = [i for i in range(39) if i not in (3, 4, 29)]
  expected = _index(descriptors[kept]).search(_unit(5, seed=1), 36)
  for found in (index, dense.DenseIndex.load(tmp_path / "a")):
    assert len(found) == 36
    assert found.names[26:28] == ["a28", "b0"]
    _same(found.search(_unit(5, seed=1), 36), expected)
    np.testing.assert_array_equal(found.descriptors, descriptors[kept])


def test_what_was_given_may_change():
  given = _unit(5)
  index = _index(given)
  given[:] = 0
  np.testing.assert_array_equal(index.descriptors, _unit(5))
  with pytest.raises(ValueError, match="read-only"):
    index.descriptors[:] = 0


def test_merged_with_images_without_descriptor():
  none = dense.DenseIndex()
  none.add(["c", "d"], [None, None])
  index = dense.DenseIndex()
  index.add(["a", "b"], np.eye(2))
  index.merge(none)
  assert index.names == ["a", "b", "c", "d"]
  assert index.descriptors.shape == (4, 2)
  assert index.search([[0, 1]], 4).ids.tolist() == [[1, 0, 2, 3]]
  assert none.dimension is None


def test_merged_indexes_stay_apart():
  one, two = _index(_unit(3)), _index(_unit(3, seed=1), prefix="b")
  one.merge(two)
  two.remove(["b0"])
  assert (len(one), len(two)) == (6, 2)
  np.testing.assert_array_equal(one.descriptors[3:], _unit(3, seed=1))


def test_few_copies_of_few_rows():
  block = np.arange(10.0)[:, None]
  keep = np.ones([10], bool)
  keep[[0, 4]] = False
  parts = dense.kept(block, keep)
  assert [part.ravel().tolist() for part in parts] == [
    [1, 2, 3],
    [5, 6, 7, 8, 9],
  ]
  assert all(np.shares_memory(part, block) for part in parts)
  assert dense.kept(block, ~keep)[1].tolist() == [[4]]
  blocks = []
  for i in range(100):
    blocks = dense.joined(blocks, np.full([1, 2], i))
  assert [len(each) for each in blocks] == [64, 32, 4]


@pytest.mark.parametrize(
  ("names", "descriptors", "words"),
  [
    (["a0"], np.ones([1, 8]), "already in the index: 'a0'"),
    (["b", "b"], np.ones([2, 8]), "unique; repeated: 'b'"),
    (["b"], np.ones([1, 7]), "dimension 8, not 7"),
    (["b"], [np.ones(7)], "dimension 8, not 7"),
    (["b", "c"], [np.ones(8), np.ones(7)], r"shapes \[\[7\], \[8\]\]"),
    (["b", "c"], np.ones([1, 8]), "1 names are needed, not 2"),
    (["b"], np.full([1, 8], np.nan), "NaN, infinity .* in 1 of 1"),
    (["b"], np.full([1, 8], 1e20), "over 1e\\+15"),
    (["b"], np.ones(8), r"shape \[N, D\]"),
    ([3], np.ones([1, 8]), "names must be text, not 3"),
    ("b", np.ones([1, 8]), "names must be a list, not the text 'b'"),
    (["b"], np.array([8 * ["x"]]), "array of numbers"),
  ],
)
def test_what_cannot_be_added(names, descriptors, words):
  index = _index(_unit(3))
  with pytest.raises(errors.InputError, match=words):
    index.add(names, descriptors)
  assert (len(index), len(index.descriptors)) == (3, 3)


def _searched(index, queries, k=1):
  return lambda: index.search(queries, k)


def test_what_cannot_be_done():
  index = _index(_unit(3))
  cases = [
    (_searched(index, np.ones([1, 7])), "queries must have dimension 8"),
    (_searched(index, np.full([1, 8], np.inf)), "queries must be finite"),
    (_searched(index, np.ones([1, 8]), 0), "images must be over 0, not 0"),
    (lambda: index.remove(["a0", "x"]), "not in the index: 'x'"),
    (lambda: index.merge(index), "already in the index: 'a0', 'a1', 'a2'"),
    (
      lambda: index.merge(_index(_unit(2), "float16", "b")),
      "float16 into float32",
    ),
    (lambda: index.merge(_index(_unit(2, 7), prefix="b")), "of dimension 8"),
    (lambda: dense.DenseIndex("int8"), "float32 or float16, not 'int8'"),
    (lambda: _index(np.full([1, 2], 1e6), "float16"), "exceed 65504"),
  ]
  for call, words in cases:
    with pytest.raises(errors.InputError, match=words):
      call()
  assert index.names == ["a0", "a1", "a2"]


def _file(path, **changes):
  arrays = {
    **array_file.encode_names(["a", "b"]),
    "empty": np.zeros([2], np.uint8),
    "descriptors": np.ones([2, 4], np.float32),
  }
  arrays |= changes
  kept = {name: a for name, a in arrays.items() if a is not None}
  array_file.write(path, "dense index", {}, kept)
  return path


@pytest.mark.parametrize(
  "changes",
  [
    {"descriptors": None},
    {"empty": None},
    {"names": None},
    {"descriptors": np.ones([3, 4], np.float32)},
    {"descriptors": np.ones([2, 4])},
    {"descriptors": np.ones([2], np.float32)},
    {"empty": np.zeros([3], np.uint8)},
    array_file.encode_names(["a", "a"]),
  ],
)
def test_files_of_others(tmp_path, changes):
  path = _file(tmp_path / "a.index", **changes)
  with pytest.raises(errors.InputError, match="a.index: "):
    dense.DenseIndex.load(path)


def test_bad_values_in_a_file_are_found_by_a_search(tmp_path):
  bad = np.float32([[np.nan, 0], [1, 1]])
  index = dense.DenseIndex.load(_file(tmp_path / "a", descriptors=bad))
  with pytest.raises(
    errors.InputError, match="descriptors have NaN or infinity"
  ):
    index.search(np.ones([1, 2]), 1)


def test_file_that_is_none(tmp_path):
  with pytest.raises(FileNotFoundError, match="gone"):
    dense.DenseIndex.load(tmp_path / "gone")
  path = _file(tmp_path / "a")
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(errors.InputError, match="a whole index"):
    dense.DenseIndex.load(path)


_WRITER = """
import itertools, sys
import numpy as np
from delf.indexes import dense
path = sys.argv[1]
for i in itertools.count(1):
  index = dense.DenseIndex()
  if i > 1:
    index = dense.DenseIndex.load(path)
  index.add([f"{i}_{j}" for j in range(50)], np.full([50, 256], i))
  index.save(path)
  print(i, flush=True)
"""


def test_killed_while_adding(tmp_path):
  path, root = tmp_path / "a", pathlib.Path(__file__).resolve().parents[2]
  for delay in (0, 0.004, 0.013):
    writer = subprocess.Popen(
      [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, cwd=root
    )
    said = writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    said = (said + writer.communicate()[0]).split()
    index = dense.DenseIndex.load(path, verify=True)
    # The last that was said to be there, or the one after it.
    assert len(index) // 50 - int(said[-1]) in (0, 1)
    expected = np.repeat(np.arange(len(index) // 50) + 1, 50)
    np.testing.assert_array_equal(index.descriptors[:, 0], expected)
