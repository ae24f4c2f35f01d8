import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from delf.base import errors
from delf.matching import matcher, verification
from delf.python import feature_io
from tests.stand_ins import checkout

_OPTIONS = matcher.DETECT_TO_RETRIEVE
_QUERIES, _INDEX = 3, 8


def _write_collection(folder, number=60, dimension=16):
  """Writes queries and index images that share points; returns both."""
  random = np.random.default_rng(0)
  locations = random.uniform(0, 500, (_QUERIES, number, 2))
  descriptors = random.normal(size=(_QUERIES, number, dimension))
  descriptors /= np.linalg.norm(descriptors, axis=2, keepdims=True)
  for query in range(_QUERIES):
    _write(folder, f"q{query}", locations[query], descriptors[query])
  for image in range(_INDEX):
    shared = 7 * image
    where = random.uniform(0, 500, (number, 2))
    what = random.permutation(descriptors[2])
    where[:shared] = 0.8 * locations[image % 2, :shared] + 30
    what[:shared] = descriptors[image % 2, :shared]
    _write(folder, f"i{image}", where, what)
  return _files(folder, "q", _QUERIES), _files(folder, "i", _INDEX)


def _write(folder, name, locations, descriptors):
  ones = np.ones([len(locations)])
  path = str(folder / f"{name}.delf")
  feature_io.WriteToFile(path, locations, ones, descriptors, ones)


def _files(folder, letter, number):
  names = tuple(f"{letter}{i}" for i in range(number))
  paths = tuple(str(folder / f"{name}.delf") for name in names)
  return verification.FeatureFiles(names, paths.__getitem__)


def _paths(side):
  return [side.path(number) for number in range(len(side.names))]


@pytest.fixture
def collection(tmp_path):
  return _write_collection(tmp_path)


_ALL = np.stack(np.indices((_QUERIES, _INDEX)).reshape([2, -1]), axis=1)


def _expected(query_path, image_path):
  read = [feature_io.ReadFromFile(path) for path in (query_path, image_path)]
  sides = [matcher.prepare(arrays[0], arrays[2]) for arrays in read]
  return matcher.match_prepared(*sides, _OPTIONS, backward=True).score


def test_finds_what_matching_pair_by_pair_finds(collection):
  queries, index = collection
  report = verification.verify_pairs(_ALL[::-1], queries, index, _OPTIONS)
  assert report.pairs.tolist() == _ALL.tolist()
  expected = [_expected(queries.path(q), index.path(i)) for q, i in _ALL]
  assert report.inliers.tolist() == expected
  assert report.inliers.max() >= 40
  assert report.failed == ()
  wanted = np.array([[2, 0], [0, 6], [0, 6]])
  assert report.look_up(*wanted.T).tolist() == [
    expected[2 * _INDEX],
    expected[6],
    expected[6],
  ]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_finds_the_same(
  collection, workers, monkeypatch
):
  monkeypatch.setattr(verification, "_CHUNK", 5)
  alone = verification.verify_pairs(_ALL, *collection, _OPTIONS, workers=1)
  shared = verification.verify_pairs(
    _ALL, *collection, _OPTIONS, workers=workers
  )
  assert alone.inliers.tolist() == shared.inliers.tolist()


@pytest.mark.parametrize("cache_bytes", [1, 10**9])
def test_memory_for_features_changes_nothing(collection, cache_bytes):
  expected = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  found = verification.verify_pairs(
    _ALL, *collection, _OPTIONS, cache_bytes=cache_bytes
  )
  assert found.inliers.tolist() == expected.inliers.tolist()


def test_each_file_is_read_once_where_memory_allows(collection, monkeypatch):
  read = []
  original = feature_io.read_local_features

  def count(path):
    read.append(path)
    return original(path)

  monkeypatch.setattr(feature_io, "read_local_features", count)
  verification.verify_pairs(_ALL, *collection, _OPTIONS)
  assert sorted(read) == sorted(_paths(collection[0]) + _paths(collection[1]))


@pytest.mark.parametrize("workers", [1, 2])
def test_features_in_memory_are_not_read(collection, workers):
  queries, index = collection
  expected = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  in_memory = {
    path: feature_io.read_local_features(path) for path in _paths(queries)
  }
  for path in in_memory:
    pathlib.Path(path).write_bytes(b"not read")
  queries = dataclasses.replace(queries, in_memory=in_memory)
  found = verification.verify_pairs(
    _ALL, queries, index, _OPTIONS, workers=workers
  )
  assert found.inliers.tolist() == expected.inliers.tolist()
  assert found.failed == ()


def test_cache_stays_within_its_bytes(collection):
  paths = _paths(collection[1])
  one = verification.FeatureCache(10**9).get(paths[0]).nbytes
  cache = verification.FeatureCache(2 * one)
  for number in (0, 1, 0, 2, 0, 1):
    cache.get(paths[number])
  assert cache.reads == 4  # 1 went when 2 came, and is read again.


def _run(collection, folder, pairs=_ALL, options=_OPTIONS, **more):
  return verification.verify_pairs(pairs, *collection, options, folder, **more)


def test_a_repeat_takes_over_what_is_recorded(collection, tmp_path):
  out = tmp_path / "out"
  first = _run(collection, out, _ALL[:10])
  assert first.resumed == 0
  second = _run(collection, out)
  assert second.resumed == 10
  third = _run(collection, out)
  assert third.resumed == len(_ALL)
  expected = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  for found in (second, third):
    assert found.inliers.tolist() == expected.inliers.tolist()


def test_other_settings_or_files_are_verified_anew(collection, tmp_path):
  out = tmp_path / "out"
  _run(collection, out)
  for other in (
    matcher.MatchOptions.one_way(0.8, 10.0),
    matcher.MatchOptions.one_way(0.9, 11.0),
    matcher.MatchOptions.one_way(0.9, 10.0, use_ratio_test=True),
    matcher.MatchOptions.one_way(0.9, 10.0, seed=1),
  ):
    assert _run(collection, out, options=other).resumed == 0
  assert _run(collection, out).resumed == len(_ALL)
  # As large as before, but later.
  os.utime(collection[1].path(3), ns=(1, 1))
  assert _run(collection, out).resumed == len(_ALL) - _QUERIES


def test_lines_that_are_cut_or_odd_are_done_again(collection, tmp_path):
  expected = _run(collection, tmp_path / "out").inliers
  path = tmp_path / "out" / verification.RECORD
  lines = path.read_bytes().splitlines(keepends=True)
  large = json.dumps([*json.loads(lines[0])[:-1], 10**12]).encode()
  odd = [b"\n", b"[]\n", b'{"a": 1}\n', b"\xff\n", large + b"\n", lines[0][:-3]]
  path.write_bytes(b"".join([*lines[3:], *odd]))
  found = _run(collection, tmp_path / "out")
  assert found.resumed == len(_ALL) - 3
  assert found.inliers.tolist() == expected.tolist()
  assert _run(collection, tmp_path / "out").resumed == len(_ALL)


def test_files_that_cannot_be_used_are_reported_once(collection, tmp_path):
  queries, index = collection
  os.remove(index.path(5))
  with open(index.path(6), "r+b") as file:
    file.truncate(100)
  _write(tmp_path, "i7", np.zeros([9, 2]), np.eye(9))
  whole = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  assert [failure.path for failure in whole.failed] == _paths(index)[5:]
  reasons = "no such file", "truncated", "16"
  for failure, reason in zip(whole.failed, reasons, strict=True):
    assert reason in failure.reason
    assert str(failure).count(failure.path) == 1
  assert not whole.look_up([0, 1, 2], [5, 6, 7]).any()
  # Not recorded: once the file is right, its pairs are verified.
  _run(collection, tmp_path / "out")
  _write_collection(tmp_path)
  assert _run(collection, tmp_path / "out").failed == ()


def test_an_image_without_features_has_no_inliers(collection, tmp_path):
  _write(tmp_path, "i0", np.zeros([0, 2]), np.zeros([0, 16]))
  report = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  assert report.failed == ()
  assert not report.look_up([0, 1, 2], [0, 0, 0]).any()


def test_no_pairs():
  none = verification.FeatureFiles((), str)
  report = verification.verify_pairs([], none, none, _OPTIONS)
  assert report.inliers.shape == (0,)
  assert report.look_up([], []).shape == (0,)
  with pytest.raises(KeyError):
    report.look_up([0], [0])


@pytest.mark.parametrize("workers", [0, True, 1.5])
def test_number_of_processes_is_checked(collection, workers):
  with pytest.raises(errors.InputError, match="processes"):
    verification.verify_pairs(_ALL, *collection, _OPTIONS, workers=workers)


def test_a_process_that_is_killed_is_an_error(collection, monkeypatch):
  original = verification._start

  def start_and_kill():
    pipe, process = original()
    process.kill()
    return pipe, process

  monkeypatch.setattr(verification, "_start", start_and_kill)
  with pytest.raises(OSError, match="was killed"):
    verification.verify_pairs(_ALL, *collection, _OPTIONS, workers=2)


def test_a_process_ends_with_the_program_that_started_it():
  pipe, process = verification._start()
  pipe.close()  # As the system does when that program is killed.
  assert process.wait(timeout=60) == 0


_SLOW = """
import sys, time, pathlib
from delf.matching import verification, verification_test as test

class Slow(verification.Verifier):
  def __call__(self, pairs):
    time.sleep(0.1)
    return super().__call__(pairs)

verification.Verifier = Slow
verification._CHUNK = 2
folder = pathlib.Path(sys.argv[1])
files = [test._files(folder, "q", 3), test._files(folder, "i", 8)]
test._run(files, folder / "out", workers=1)
"""


def test_a_kill_loses_only_the_pairs_of_the_moment(collection, tmp_path):
  command = [sys.executable, "-c", _SLOW, str(tmp_path)]
  process = subprocess.Popen(command, cwd=checkout.ROOT)
  record = tmp_path / "out" / verification.RECORD
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    if record.exists() and record.read_bytes().count(b"\n") >= 6:
      break
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()
  done = record.read_bytes().count(b"\n")
  assert 6 <= done < len(_ALL)
  found = _run(collection, tmp_path / "out")
  assert found.resumed == done
  expected = verification.verify_pairs(_ALL, *collection, _OPTIONS)
  assert found.inliers.tolist() == expected.inliers.tolist()
