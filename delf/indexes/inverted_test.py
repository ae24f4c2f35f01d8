import dataclasses
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from delf.aggregation import aggregate
from delf.base import errors
from delf.formats import array_file
from delf.indexes import inverted
from delf.protos import aggregation_config_pb2
from tests.stand_ins import npz

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_GOLDENS = _ROOT.parent / "shared" / "goldens"
_OPTIONS = inverted.AsmkOptions(dimension=32, codebook_size=50)


def _image(random, options, most=40):
  words = np.sort(
    random.choice(options.codebook_size, random.integers(most), replace=False)
  ).astype(np.int32)
  floats = random.normal(size=(len(words), options.dimension))
  floats /= np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-9)
  if options.packed:
    return np.packbits(floats > 0, axis=1), words
  return floats.astype(np.float32), words


def _images(number, options=_OPTIONS, seed=1):
  random = np.random.default_rng(seed)
  names = [f"image_{seed}_{i}" for i in range(number)]
  return names, [_image(random, options) for _ in range(number)]


def _index(number, options=_OPTIONS, seed=1):
  index = inverted.InvertedIndex(options)
  index.add(*_images(number, options, seed))
  return index


def _pairwise(options, first, second):
  """The definition, word by word."""
  (values_1, words_1), (values_2, words_2) = first, second
  if not len(words_1) or not len(words_2):
    return -1.0
  total = 0.0
  for word in set(words_1.tolist()) & set(words_2.tolist()):
    one = values_1[words_1.tolist().index(word)]
    two = values_2[words_2.tolist().index(word)]
    if options.packed:
      bits = options.dimension if options.dimension < 8 else 8 * len(one)
      u = 1 - 2 * np.unpackbits(one ^ two).sum() / bits
    else:
      u = float(one @ two)
    if u > options.tau:
      total += np.sign(u) * abs(u) ** options.alpha
  if options.normalize:
    total /= np.sqrt(len(words_1) * len(words_2))
  return total


def _same(index, other, queries):
  assert index.names == other.names
  for query in queries:
    assert np.array_equal(index.score_all(query), other.score_all(query))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dimension", [5, 12, 40, 64, 128])
def test_as_the_pairwise_definition(packed, dimension, monkeypatch):
  # Several blocks, and lists that are cut by them.
  monkeypatch.setattr(inverted, "_BLOCK_BYTES", 64)
  kernels = itertools.product((3.0, 1.0, 0.5), (0.0, 0.3, -0.4), (True, False))
  for alpha, tau, normalize in kernels:
    options = inverted.AsmkOptions(packed, dimension, 50, alpha, tau, normalize)
    _, images = _images(12, options)
    index = _index(12, options)
    expected = [
      [_pairwise(options, query, image) for image in images] for query in images
    ]
    found = [index.score_all(query) for query in images]
    # A root's slope at 0 makes much of the last bit of a product.
    atol = 1e-7 if packed or alpha >= 1 else 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("width", [5, 6, 12, 16])
def test_bits_are_counted_in_lanes_of_any_size(width):
  random = np.random.default_rng(1)
  kernel = aggregate.Kernel(True, 8 * width, alpha=1.0, tau=-2.0)
  one, two = random.integers(0, 256, (2, 9, width), dtype=np.uint8)
  found = kernel(*map(aggregate.lanes, (one, two.copy())))
  differing = np.unpackbits(one ^ two, axis=1).sum(axis=1)
  assert np.array_equal(found, 1 - 2 * differing / (8 * width))


@pytest.mark.goldens
@pytest.mark.skipif(not _GOLDENS.exists(), reason="no recorded outputs")
@pytest.mark.parametrize(
  "tag", ["k64d16", "ties_k6d2", "k32d12", "k32d5", "k1024d128"]
)
def test_as_the_original(tag):
  meta = json.loads((_GOLDENS / "agg_meta.json").read_text())[tag]
  arrays = npz.read(_GOLDENS / f"agg_{tag}.npz")
  compared = set()
  for key in arrays:
    if not key.startswith("sim|") or "asmk" not in key:
      continue
    _, kind, settings = key.split("|")
    alpha, tau, flag = settings.split("_")
    options = inverted.AsmkOptions(
      packed="star" in kind,
      dimension=meta["D"],
      codebook_size=meta["K"],
      alpha=float(alpha.removeprefix("alpha")),
      tau=float(tau.removeprefix("tau")),
      normalize=flag == "l2",
    )
    names = meta["sims"][key]
    images = [
      (arrays[f"{kind}|{name}|desc"], arrays[f"{kind}|{name}|vw"])
      for name in names
    ]
    index = inverted.InvertedIndex(options)
    index.add(names, images)
    found = [index.score_all(image) for image in images]
    np.testing.assert_allclose(found, arrays[key], rtol=1e-5, err_msg=key)
    compared.add(kind)
  # Whatever the number of assignments: regional aggregates among them.
  kinds = {kind.partition("_na")[0] for kind in compared}
  assert kinds == {"asmk", "asmk_star", "rasmk", "rasmk_star"}


def test_search():
  index, (_, queries) = _index(30), _images(6, seed=2)
  found = index.search(queries, 10)
  assert found.ids.shape == found.scores.shape == (6, 10)
  for row, query in enumerate(queries):
    scores = index.score_all(query)
    order = np.argsort(-scores, kind="stable")[:10]
    assert np.array_equal(found.ids[row], order)
    assert np.array_equal(found.scores[row], scores[order])
  assert index.search([], 3).ids.shape == (0, 3)
  with pytest.raises(errors.InputError, match="over 0, not 0"):
    index.search([], 0)


def test_without_words():
  empty = np.zeros([0, 4], np.uint8), np.zeros([0], np.int32)
  flat = np.zeros([0], np.uint8), np.zeros([0], np.int64)
  index = inverted.InvertedIndex(_OPTIONS)
  some = _image(np.random.default_rng(4), _OPTIONS)
  index.add(["a", "b", "c"], [empty, some, flat])
  index.add(["d"], [empty])
  assert index.score_all(some).tolist() == [-1, 1, -1, -1]
  assert index.score_all(empty).tolist() == [-1] * 4
  assert index.search([some], 2).ids.tolist() == [[1, 0]]
  assert index.word_counts.tolist() == [0, len(some[1]), 0, 0]


def test_empty_index(tmp_path):
  index, query = inverted.InvertedIndex(_OPTIONS), _images(1)[1][0]
  index.save(tmp_path / "a")
  for each in (index, inverted.InvertedIndex.load(tmp_path / "a")):
    assert len(each) == 0
    assert each.score_all(query).shape == (0,)
    assert each.search([query], 2).ids.tolist() == [[-1, -1]]
    each.add(*_images(5))
    _same(each, _index(5), [query])


@pytest.mark.parametrize("sizes", [[1] * 20, [7, 1, 12], [0, 20], [12, 8]])
def test_added_in_parts(sizes, monkeypatch, tmp_path):
  names, images = _images(20)
  index = inverted.InvertedIndex(_OPTIONS)
  for end, size in zip(np.cumsum(sizes), sizes, strict=True):
    index.add(names[end - size : end], iter(images[end - size : end]))
  _same(index, _index(20), images)
  assert len(index._parts) <= 5
  index.save(tmp_path / "parts")
  _index(20).save(tmp_path / "whole")
  assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_large_additions_are_split(monkeypatch):
  monkeypatch.setattr(inverted, "_PART_BYTES", 300)
  monkeypatch.setattr(inverted, "_MERGED_BYTES", 0)
  index = _index(20)
  assert len(index._parts) > 5
  monkeypatch.undo()
  _same(index, _index(20), _images(20)[1])


def test_indexes_of_two_codebooks_are_not_merged():
  one, other = _index(3), inverted.InvertedIndex(_OPTIONS)
  one.metadata["codebook"], other.metadata["codebook"] = "abc", "abd"
  with pytest.raises(errors.InputError, match="abc.*abd"):
    one.merge(other)
  other.metadata["codebook"] = "abc"
  one.merge(other)
  assert len(one) == 3


@pytest.mark.parametrize("packed", [True, False])
def test_save_and_load(tmp_path, packed):
  options = dataclasses.replace(_OPTIONS, packed=packed, alpha=2.0, tau=0.1)
  index = _index(20, options)
  index.metadata["codebook"] = "abc"
  index.save(tmp_path / "a")
  loaded = inverted.InvertedIndex.load(tmp_path / "a", verify=True)
  assert loaded.options == options
  assert loaded.metadata == {"codebook": "abc"}
  assert np.array_equal(loaded.word_counts, index.word_counts)
  _same(loaded, index, _images(20, options)[1])
  loaded.save(tmp_path / "a")
  _same(loaded, index, _images(20, options)[1])
  again = inverted.InvertedIndex.load(tmp_path / "a")
  _same(again, index, _images(20, options)[1])


def test_loading_reads_no_lists(tmp_path):
  _index(20).save(tmp_path / "a")
  loaded = inverted.InvertedIndex.load(tmp_path / "a")
  (part,) = loaded._parts
  for array in (part.ids, part.descriptors):
    while not isinstance(array, np.memmap):
      array = array.base
      assert array is not None


@pytest.mark.parametrize("piece", [1, 100, 1 << 26])
def test_remove(tmp_path, monkeypatch, piece):
  monkeypatch.setattr("delf.indexes.inverted._PIECE_BYTES", piece)
  names, images = _images(20)
  removed = [names[i] for i in (0, 3, 4, 19)]
  kept = [i for i, name in enumerate(names) if name not in removed]
  expected = inverted.InvertedIndex(_OPTIONS)
  expected.add([names[i] for i in kept], [images[i] for i in kept])
  index = _index(20)
  index.remove(removed)
  assert len(index) == 16
  _same(index, expected, images)
  for each in (index, expected):
    each.save(tmp_path / str(id(each)))
  saved = (tmp_path / str(id(index))).read_bytes()
  assert saved == (tmp_path / str(id(expected))).read_bytes()
  loaded = inverted.InvertedIndex.load(tmp_path / str(id(index)))
  loaded.remove(names[1])
  loaded.add(removed, [images[names.index(name)] for name in removed])
  expected.remove([names[1]])
  expected.add(removed, [images[names.index(name)] for name in removed])
  _same(loaded, expected, images)
  loaded.save(tmp_path / "again")
  again = inverted.InvertedIndex.load(tmp_path / "again", verify=True)
  _same(again, expected, images)


def test_remove_all(tmp_path):
  index = _index(5)
  index.remove(index.names)
  assert index.score_all(_images(1)[1][0]).shape == (0,)
  index.save(tmp_path / "a")
  assert len(inverted.InvertedIndex.load(tmp_path / "a")) == 0


def test_remove_unknown():
  index = _index(5)
  with pytest.raises(errors.InputError, match="'other'"):
    index.remove([index.names[0], "other"])
  assert len(index) == 5


@pytest.mark.parametrize("from_file", [False, True])
def test_merge(tmp_path, from_file):
  first, second = _index(9), _index(12, seed=2)
  first.remove([first.names[2]])
  second.remove([second.names[5], second.names[0]])
  queries = _images(6, seed=3)[1]
  scores = [
    np.concatenate([first.score_all(q), second.score_all(q)]) for q in queries
  ]
  names = first.names + second.names
  if from_file:
    first.save(tmp_path / "1")
    second.save(tmp_path / "2")
    first, second = (inverted.InvertedIndex.load(tmp_path / n) for n in "12")
  before = second.score_all(queries[0])
  first.merge(second)
  assert first.names == names
  for query, expected in zip(queries, scores, strict=True):
    assert np.array_equal(first.score_all(query), expected)
  first.add(*_images(3, seed=4))
  first.remove([second.names[0]])
  assert np.array_equal(second.score_all(queries[0]), before)
  first.save(tmp_path / "1")
  loaded = inverted.InvertedIndex.load(tmp_path / "1", verify=True)
  _same(loaded, first, queries)


def test_merge_that_cannot_be():
  index, other = _index(3), _index(3)
  with pytest.raises(errors.InputError, match="image_1_0"):
    index.merge(other)
  with pytest.raises(errors.InputError, match="dimension=40"):
    index.merge(_index(2, dataclasses.replace(_OPTIONS, dimension=40), 2))
  with pytest.raises(errors.InputError, match="an inverted index, not str"):
    index.merge("other")
  _same(index, other, _images(3)[1])


_BITS = np.zeros([2, 4], np.uint8)


@pytest.mark.parametrize(
  "image, words",
  [
    ((_BITS, [3, 50]), "codebook of 50"),
    ((_BITS, [-1, 3]), "codebook of 50"),
    ((_BITS, [3, 3]), "ascend"),
    ((_BITS, [4, 3]), "ascend"),
    ((_BITS, [3]), r"shape \[1, 4\]"),
    ((_BITS[:, :2], [3, 4]), r"shape \[2, 4\]"),
    ((_BITS.reshape(-1)[:6], [3, 4]), r"shape \[2, 4\]"),
    ((_BITS.T, [3, 4]), r"shape \[2, 4\]"),
    ((_BITS, [0.5, 4]), "integers"),
    ((_BITS, [[3, 4]]), "integers"),
    ((_BITS, None), "VLAD"),
    ((_BITS.astype(np.uint32), [3, 4]), "uint8"),
    ((_BITS.astype(np.float32), [3, 4]), "uint8"),
    (5, "aggregated descriptors"),
    ((_BITS,), "aggregated descriptors"),
  ],
)
def test_bad_image(image, words):
  index = _index(4)
  good = _images(1, seed=2)[1][0]
  with pytest.raises(errors.InputError, match=f"^bad: .*{words}"):
    index.add(["good", "bad"], [good, image])
  with pytest.raises(errors.InputError, match=words):
    index.search([image], 2)
  _same(index, _index(4), [good])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e7])
def test_not_finite(value):
  options = dataclasses.replace(_OPTIONS, packed=False, dimension=2)
  index = inverted.InvertedIndex(options)
  with pytest.raises(errors.InputError, match="bad: .* NaN, infinity"):
    index.add(["bad"], [(np.array([[1, value]]), [3])])
  with pytest.raises(errors.InputError, match="floats, not int"):
    index.add(["bad"], [(np.array([[1, 2]]), [3])])


def test_bad_names():
  index, (names, images) = _index(3), _images(3, seed=2)
  for bad in ([*names[:2], names[0]], [index.names[0], *names[1:]], [1, 2, 3]):
    with pytest.raises(errors.InputError):
      index.add(bad, images)
  with pytest.raises(
    errors.InputError, match="3 names were given, but 2 images"
  ):
    index.add(names, images[:2])
  with pytest.raises(errors.InputError, match="2 names .*more images"):
    index.add(names[:2], images)
  _same(index, _index(3), images)


def test_interrupted_addition():
  index, (names, images) = _index(3), _images(3, seed=2)

  def interrupted():
    yield images[0]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    index.add(names, interrupted())
  _same(index, _index(3), images)


@pytest.mark.parametrize(
  "change",
  [
    {"dimension": 0},
    {"dimension": 2**40},
    {"dimension": 5.0},
    {"codebook_size": True},
    {"alpha": -1},
    {"alpha": "3"},
    {"tau": float("nan")},
    {"packed": 1},
    {"normalize": None},
  ],
)
def test_bad_options(tmp_path, change):
  with pytest.raises(errors.InputError):
    dataclasses.replace(_OPTIONS, **change)
  header, arrays = _saved(tmp_path / "a")
  header["options"] |= change
  _refused(tmp_path / "b", header, arrays)


def test_configuration():
  config = aggregation_config_pb2.AggregationConfig(
    aggregation_type="ASMK", alpha=2, tau=0.5, use_l2_normalization=False
  )
  found = inverted.AsmkOptions.from_config(config)
  assert found == inverted.AsmkOptions(False, 128, 65536, 2.0, 0.5, False)
  config.aggregation_type = config.ASMK_STAR
  assert inverted.AsmkOptions.from_config(config).packed
  config.aggregation_type = config.VLAD
  with pytest.raises(errors.InputError, match="VLAD"):
    inverted.AsmkOptions.from_config(config)


def _saved(path):
  _index(6).save(path)
  header, arrays = array_file.read(path, inverted.KIND)
  return header, {name: np.array(array) for name, array in arrays.items()}


def _refused(path, header, arrays):
  array_file.write(path, inverted.KIND, header, arrays)
  with pytest.raises(errors.InputError, match=f"{path.name}: "):
    index = inverted.InvertedIndex.load(path)
    for query in _images(6)[1]:
      index.score_all(query)


def _damage(arrays, name):
  """Yields arrays that no index has."""
  array = arrays[name]
  yield array[:-1]
  yield array.astype(np.float64)
  yield array[None]
  if array.dtype.kind == "i" and name != "names":
    yield -1 - array
    yield array + 100


@pytest.mark.parametrize(
  "name",
  [
    "word_counts",
    "words",
    "starts",
    "ids",
    "descriptors",
    "name_ends",
    "names",
  ],
)
def test_arrays_that_do_not_fit(tmp_path, name):
  header, arrays = _saved(tmp_path / "a")
  for bad in _damage(arrays, name):
    _refused(tmp_path / "b", header, {**arrays, name: bad})
  _refused(
    tmp_path / "b", header, {n: a for n, a in arrays.items() if n != name}
  )


def test_ids_outside(tmp_path):
  header, arrays = _saved(tmp_path / "a")
  for number in (6, 2**31, 2**32 - 1):
    ids = arrays["ids"].copy()
    ids[:] = number
    _refused(tmp_path / "b", header, {**arrays, "ids": ids})


def test_ids_outside_of_an_index_that_is_changed(tmp_path):
  header, arrays = _saved(tmp_path / "a")
  ids = arrays["ids"].copy()
  ids[3] = 2**31
  array_file.write(
    tmp_path / "b", inverted.KIND, header, {**arrays, "ids": ids}
  )
  for removed in (0, 1):
    index = inverted.InvertedIndex.load(tmp_path / "b")
    index.remove(index.names[:removed])
    with pytest.raises(errors.InputError, match="b: .*changed"):
      index.save(tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_headers_that_do_not_fit(tmp_path):
  header, arrays = _saved(tmp_path / "a")
  for bad in ({}, {"options": {}}, {**header, "options": 5}):
    _refused(tmp_path / "b", bad, arrays)
  for metadata in (5, None, ["ab", 3]):
    _refused(tmp_path / "b", {**header, "metadata": metadata}, arrays)
  twice = array_file.encode_names(["a"] * 6)
  _refused(tmp_path / "b", header, {**arrays, **twice})


def test_changed_on_disk(tmp_path):
  path = tmp_path / "a"
  _index(20).save(path)
  data = bytearray(path.read_bytes())
  data[-5] ^= 1
  path.write_bytes(data)
  inverted.InvertedIndex.load(path)
  with pytest.raises(errors.InputError, match="descriptors were changed"):
    inverted.InvertedIndex.load(path, verify=True)
  path.write_bytes(data[:-1])
  with pytest.raises(errors.InputError, match="whole index"):
    inverted.InvertedIndex.load(path)


_WRITER = """
import itertools, sys
import numpy as np
from delf.indexes import inverted
path = sys.argv[1]
inverted.InvertedIndex().save(path)
words = np.arange(400, dtype=np.int32)
for i in itertools.count():
  index = inverted.InvertedIndex.load(path)
  bits = np.full([400, 16], i % 256, np.uint8)
  index.add([str(i)], [(bits, words)])
  index.save(path)
  print(i, flush=True)
"""


def test_killed_while_adding(tmp_path):
  path = tmp_path / "a"
  for delay in (0, 0.002, 0.007):
    writer = subprocess.Popen(
      [sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE, cwd=_ROOT
    )
    for _ in range(5):
      writer.stdout.readline()
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    index = inverted.InvertedIndex.load(path, verify=True)
    assert index.names == [str(i) for i in range(len(index))]
    assert len(index) >= 5
    words = np.arange(400, dtype=np.int32)
    last = np.full([400, 16], len(index) - 1, np.uint8)
    best = index.search([(last, words)], 1)
    assert best.ids[0, 0] == len(index) - 1
    assert best.scores[0, 0] == 1
