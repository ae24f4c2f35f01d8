import pickle

import numpy as np
import pytest

from delf.aggregation import aggregate, visual_words
from delf.cli import scripts
from delf.formats import configs
from delf.python import feature_aggregation_extractor, feature_io
from delf.python.detect_to_retrieve import (
  aggregation_extraction,
  extract_aggregation,
)

_CONFIG = """
codebook_size: 20
feature_dimensionality: 6
codebook_path: "{folder}/codebook"
use_regional_aggregation: {regional}
"""


@pytest.fixture(autouse=True)
def _inputs(tmp_path):
  generator = np.random.default_rng(0)
  visual_words.write_codebook(
    tmp_path / "codebook", generator.standard_normal([20, 6])
  )
  for name in ("q", "a", "b", "a_0", "a_1", "b_0"):
    ones = np.ones([8])
    descriptors = generator.standard_normal([8, 6])
    path = tmp_path / "features" / f"{name}.delf"
    feature_io.WriteToFile(path, np.ones([8, 2]), ones, descriptors, ones)
  (tmp_path / "mapping.csv").write_text(
    "name,index_image_id,box_id\na_0,0,-1\na_1,0,0\nb_0,1,-1\n"
  )
  truth = [{"easy": [0], "hard": [], "junk": [], "bbx": [0, 0, 9, 9]}]
  content = {"imlist": ["a", "b"], "qimlist": ["q"], "gnd": truth}
  (tmp_path / "gnd.pkl").write_bytes(pickle.dumps(content))
  for name, regional in (("plain", "false"), ("regional", "true")):
    text = _CONFIG.format(folder=tmp_path, regional=regional)
    (tmp_path / f"{name}.pbtxt").write_text(text)


def _run(tmp_path, config, *more):
  argv = [
    "extract_aggregation.py",
    f"--aggregation_config_path={tmp_path / config}.pbtxt",
    f"--dataset_file_path={tmp_path / 'gnd.pkl'}",
    f"--features_dir={tmp_path / 'features'}",
    f"--output_aggregation_dir={tmp_path / 'out'}",
    *more,
  ]
  with pytest.raises(SystemExit) as error:
    scripts.run(
      extract_aggregation.main, extract_aggregation.define_flags, argv
    )
  return error.value.code


def _aggregates(tmp_path):
  return sorted(p.name for p in (tmp_path / "out").glob("*.*asmk_star"))


@pytest.mark.parametrize(
  "form",
  [["--use_query_images", "True"], ["--use_query_images=true"]],
  ids=["argparse", "absl"],
)
def test_query_images(form, tmp_path, capsys):
  assert not _run(tmp_path, "plain", *form)
  assert _aggregates(tmp_path) == ["q.asmk_star"]
  assert "1 aggregated, 0 already there" in capsys.readouterr().out


def test_index_images_with_regions(tmp_path):
  mapping = f"--index_mapping_path={tmp_path / 'mapping.csv'}"
  assert not _run(tmp_path, "regional", "--use_query_images", "False", mapping)
  assert _aggregates(tmp_path) == ["a.rasmk_star", "b.rasmk_star"]
  parts = [
    feature_io.ReadFromFile(tmp_path / "features" / f"{name}.delf")[2]
    for name in ("a_0", "a_1")
  ]
  config = configs.read_aggregation_config(tmp_path / "regional.pbtxt")
  extractor = feature_aggregation_extractor.ExtractAggregatedRepresentation(
    config
  )
  descriptors, words = extractor.Extract(np.concatenate(parts), [8, 8])
  found = aggregate.read(tmp_path / "out" / "a.rasmk_star", 6, 20)
  np.testing.assert_array_equal(found.descriptors.reshape(-1), descriptors)
  np.testing.assert_array_equal(found.words, words)


def test_a_failed_image_is_said_and_the_status_is_1(tmp_path, capsys):
  (tmp_path / "features" / "a.delf").unlink()
  assert _run(tmp_path, "plain") == 1
  captured = capsys.readouterr()
  assert captured.err.count("\n") == 1
  assert "a.delf: no such file" in captured.err
  assert "1 aggregated, 0 already there, 1 failed" in captured.out
  assert _aggregates(tmp_path) == ["b.asmk_star"]


def test_regions_are_of_index_images(tmp_path, capsys):
  more = (f"--index_mapping_path={tmp_path / 'mapping.csv'}",)
  assert _run(tmp_path, "regional", "--use_query_images", *more) == 1
  assert "index_mapping_path is for index images" in capsys.readouterr().err


def test_the_function_of_the_original(tmp_path):
  arguments = (["a", "b"], tmp_path / "features", tmp_path / "plain.pbtxt")
  out = tmp_path / "out"
  function = aggregation_extraction.ExtractAggregatedRepresentationsToFiles
  report = function(*arguments, "", out)
  assert report.done == ("a", "b")
  assert function(*arguments, None, out).skipped == ("a", "b")
