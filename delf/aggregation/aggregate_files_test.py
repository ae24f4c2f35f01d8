import errno
import json
import os

import numpy as np
import pytest

from delf.aggregation import aggregate, aggregate_files, visual_words
from delf.base import errors
from delf.protos import aggregation_config_pb2
from delf.python import feature_io

_WORDS, _DIMENSION = 12, 5
_NAMES = ["one", "two", "three"]


def _noise(*shape, seed=0):
  generator = np.random.default_rng(seed)
  return generator.standard_normal(shape).astype(np.float32)


def _write(path, descriptors):
  ones = np.ones([len(descriptors)])
  feature_io.WriteToFile(
    path, np.ones([len(descriptors), 2]), ones, descriptors, ones
  )


@pytest.fixture
def config(tmp_path):
  prefix = tmp_path / "codebook"
  visual_words.write_codebook(prefix, _noise(_WORDS, _DIMENSION))
  return aggregation_config_pb2.AggregationConfig(
    codebook_size=_WORDS,
    feature_dimensionality=_DIMENSION,
    codebook_path=str(prefix),
  )


@pytest.fixture
def features(tmp_path):
  """Folder of the features of each image, and of two boxes of the first."""
  folder = tmp_path / "features"
  for seed, name in enumerate([*_NAMES, "one_0", "one_1", "one_2", "two_0"]):
    _write(folder / f"{name}.delf", _noise(9, _DIMENSION, seed=seed))
  _write(folder / "one_2.delf", np.zeros([0, _DIMENSION]))
  return folder


def _run(config, features, tmp_path, names=_NAMES, **options):
  return aggregate_files.aggregate_to_files(
    names, features, config, tmp_path / "out", **options
  )


def _files(tmp_path):
  """Returns {name: bytes} of what is in the output folder."""
  folder = tmp_path / "out"
  found = folder.iterdir() if folder.exists() else ()
  return {path.name: path.read_bytes() for path in found}


def _expected(config, features, *regions):
  parts = [feature_io.ReadFromFile(features / f"{r}.delf")[2] for r in regions]
  return aggregate.aggregate(
    aggregate.Words(visual_words.read_codebook(config.codebook_path)),
    np.concatenate([part.reshape(-1, _DIMENSION) for part in parts]),
    aggregate.options(config),
    [len(part) for part in parts],
  )


def _assert_same(path, expected):
  found = aggregate.read(path, _DIMENSION, _WORDS)
  np.testing.assert_array_equal(found.descriptors, expected.descriptors)
  np.testing.assert_array_equal(found.words, expected.words)


@pytest.mark.parametrize("kind", ["VLAD", "ASMK", "ASMK_STAR"])
@pytest.mark.parametrize("regional", [False, True])
def test_each_image_has_its_aggregate(
  kind, regional, config, features, tmp_path
):
  config.aggregation_type = kind
  config.use_regional_aggregation = regional
  report = _run(config, features, tmp_path)
  assert report.done == tuple(_NAMES)
  assert report.exit_status == 0
  extension = aggregate.extension(config)
  assert set(_files(tmp_path)) == {
    aggregate_files.RECORD,
    *(f"{name}{extension}" for name in _NAMES),
  }
  for name in _NAMES:
    path = tmp_path / "out" / f"{name}{extension}"
    _assert_same(path, _expected(config, features, name))


def _mapping(tmp_path, *rows):
  path = tmp_path / "mapping.csv"
  path.write_text("\n".join(["name,index_image_id,box_id", *rows]))
  return path


def test_regions_are_those_of_the_mapping(config, features, tmp_path):
  config.use_regional_aggregation = True
  rows = ("one_0,0,-1", "two_0,1,-1", "one_1,0,0", "one_2,0,1")
  report = _run(
    config, features, tmp_path, mapping_path=_mapping(tmp_path, *rows)
  )
  assert report.done == ("one", "two")
  assert [str(failure) for failure in report.failed] == [
    "three: the mapping lists no feature files"
  ]
  assert report.exit_status == 1
  out = tmp_path / "out"
  regions = ("one_0", "one_1", "one_2")
  expected = _expected(config, features, *regions)
  _assert_same(out / "one.rasmk_star", expected)
  _assert_same(out / "two.rasmk_star", _expected(config, features, "two_0"))


def test_ids_of_the_mapping_count_repeated_names(config, features, tmp_path):
  rows = ("one_0,0,-1", "two_0,2,-1")
  report = _run(
    config,
    features,
    tmp_path,
    names=["one", "one", "two"],
    mapping_path=_mapping(tmp_path, *rows),
  )
  assert report.done == ("one", "two")


def test_a_bad_file_is_reported_and_the_rest_goes_on(
  config, features, tmp_path
):
  data = (features / "one.delf").read_bytes()
  (features / "cut.delf").write_bytes(data[:-3])
  _write(features / "other.delf", _noise(4, 6))
  _write(features / "nan.delf", _noise(4, _DIMENSION) * np.nan)
  names = ["cut", "missing", "other", "nan", "two"]
  report = _run(config, features, tmp_path, names=names)
  assert report.done == ("two",)
  said = [str(failure) for failure in report.failed]
  for name, line, words in zip(
    names,
    said,
    ["truncated or of another format", "no such file", "5, not 6", "NaN"],
    strict=False,
  ):
    assert f"{features / name}.delf: " in line
    assert words in line
    assert "\n" not in line
  assert report.exit_status == 1
  assert set(_files(tmp_path)) == {"two.asmk_star", aggregate_files.RECORD}


def test_an_image_without_features_has_an_empty_aggregate(
  config, features, tmp_path
):
  report = _run(config, features, tmp_path, names=["one_2"])
  assert report.empty == ("one_2",)
  assert "1 aggregated (1 without features)" in report.summary()
  found = aggregate.read(tmp_path / "out" / "one_2.asmk_star", _DIMENSION)
  assert found.words.shape == (0,)


def test_a_second_run_does_what_is_missing_cut_or_stale(
  config, features, tmp_path
):
  names = ["one", "two", "three", "two_0"]
  _run(config, features, tmp_path, names=names)
  whole = _files(tmp_path)
  out = tmp_path / "out"
  (out / "two.asmk_star").write_bytes(whole["two.asmk_star"][:-2])
  (out / "three.asmk_star").unlink()
  later = os.stat(out / "two_0.asmk_star").st_mtime + 5
  os.utime(features / "two_0.delf", (later, later))
  (out / f".one.{'0' * 32}.asmk_star").write_bytes(b"left by a killed run")
  (out / f".two.{'0' * 32}.asmk_star").write_bytes(b"left by a killed run")
  report = _run(config, features, tmp_path, names=names)
  assert report.skipped == ("one",)
  assert report.done == ("two", "three", "two_0")
  (out / f".one.{'0' * 32}.asmk_star").unlink()
  assert _files(tmp_path) == whole
  assert _run(config, features, tmp_path).done == ()


@pytest.mark.parametrize("change", ["codebook", "number", "mapping"])
def test_aggregates_of_other_settings_are_not_mixed(
  change, config, features, tmp_path
):
  _run(config, features, tmp_path)
  before = _files(tmp_path)
  options = {}
  if change == "codebook":
    centers = _noise(_WORDS, _DIMENSION, seed=9)
    visual_words.write_codebook(config.codebook_path, centers)
  elif change == "number":
    config.num_assignments = 2
  else:
    options["mapping_path"] = _mapping(tmp_path, "one_0,0,-1")
  with pytest.raises(errors.InputError, match="another folder"):
    _run(config, features, tmp_path, **options)
  assert _files(tmp_path) == before
  # Another kind has files of its own.
  config.aggregation_type = config.ASMK
  assert len(_run(config, features, tmp_path, **options).done) >= 1
  assert set(json.loads(_files(tmp_path)[aggregate_files.RECORD])) == {
    ".asmk_star",
    ".asmk",
  }


def test_a_full_disk_ends_the_work_with_what_was_done(
  config, features, tmp_path, monkeypatch
):
  write = aggregate.write

  def full(path, aggregated):
    if path.stem == "two":
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write(path, aggregated)

  monkeypatch.setattr(aggregate, "write", full)
  with pytest.raises(OSError, match="No space left") as caught:
    _run(config, features, tmp_path)
  assert caught.value.report.done == ("one",)


def test_an_interrupt_ends_in_a_report(config, features, tmp_path, monkeypatch):
  read = feature_io.read_local_features

  def interrupted(path):
    if "two" in path:
      raise KeyboardInterrupt
    return read(path)

  monkeypatch.setattr(feature_io, "read_local_features", interrupted)
  report = _run(config, features, tmp_path)
  assert report.done == ("one",)
  assert report.exit_status == errors.INTERRUPTED
  assert report.summary().startswith("interrupted: ")


def test_what_is_missing_is_named(config, features, tmp_path):
  with pytest.raises(FileNotFoundError, match="no_folder"):
    _run(config, tmp_path / "no_folder", tmp_path)
  with pytest.raises(errors.InputError, match="no images: give at least one"):
    _run(config, features, tmp_path, names=[])
  with pytest.raises(errors.InputError, match="a file"):
    aggregate_files.aggregate_to_files(
      _NAMES, features, config, features / "one.delf"
    )
  config.codebook_path += "_"
  with pytest.raises(FileNotFoundError, match="codebook_.index"):
    _run(config, features, tmp_path)
  assert not _files(tmp_path)
