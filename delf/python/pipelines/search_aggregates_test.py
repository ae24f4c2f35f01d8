import json

import numpy as np
import pytest

from delf.protos import aggregation_config_pb2
from delf.python import (
  aggregate_io,
  aggregation,
  datum_io,
  errors,
  feature_aggregation_similarity,
)
from delf.python.datasets import ground_truth
from delf.python.pipelines import search_aggregates

_SIZE, _DIMENSION = 6, 12
_QUERIES, _INDEX = ["q0", "q1"], [f"i{number}" for number in range(7)]
_NONE = ((), ())
_TRUTH = ground_truth.GroundTruth(
  "own", tuple(_INDEX), tuple(_QUERIES), _NONE, _NONE, _NONE, (None, None)
)


def _config(kind, regional=False, **changes):
  return aggregation_config_pb2.AggregationConfig(
    **{
      "codebook_size": _SIZE,
      "feature_dimensionality": _DIMENSION,
      "aggregation_type": kind,
      "use_regional_aggregation": regional,
      "use_l2_normalization": not regional,
    }
    | changes
  )


def _write(folder, names, config, seed, empty=()):
  """Writes and returns an aggregate for each name."""
  random = np.random.default_rng(seed)
  codebook = np.random.default_rng(0).normal(size=(_SIZE, _DIMENSION))
  codebook = aggregation.Words(codebook.astype(np.float32))
  folder.mkdir(exist_ok=True)
  found = []
  for name in names:
    number = 0 if name in empty else random.integers(3, 9)
    features = random.normal(size=(number, _DIMENSION)).astype(np.float32)
    regions = [number] if config.use_regional_aggregation else None
    found.append(
      aggregation.aggregate(
        codebook,
        features,
        aggregate_io.options(config),
        regions,
      )
    )
    path = folder / f"{name}{aggregate_io.extension(config)}"
    aggregate_io.write(path, found[-1])
  return found


def _search(folder, query_config, index_config):
  return search_aggregates.search(
    _TRUTH, query_config, index_config, folder / "q", folder / "i"
  )


@pytest.mark.parametrize("kind", ["VLAD", "ASMK", "ASMK_STAR"])
@pytest.mark.parametrize("regional", [False, True])
def test_scores_are_those_of_the_index_configuration(tmp_path, kind, regional):
  # Those of the queries must not matter.
  query_config = _config(kind, alpha=1, tau=-1, use_l2_normalization=True)
  index_config = _config(kind, regional, alpha=2, tau=0.1)
  queries = _write(tmp_path / "q", _QUERIES, query_config, 1)
  empty = () if kind == "VLAD" else ("i3",)
  images = _write(tmp_path / "i", _INDEX, index_config, 2, empty)
  found = _search(tmp_path, query_config, index_config)
  similarity = (
    feature_aggregation_similarity.SimilarityAggregatedRepresentation(
      index_config
    )
  )
  for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
    expected = [
      similarity.ComputeSimilarity(
        query.descriptors.reshape(-1),
        image.descriptors.reshape(-1),
        query.words,
        image.words,
      )
      for image in images
    ]
    assert sorted(ids.tolist()) == list(range(7))
    np.testing.assert_allclose(scores, np.array(expected)[ids], rtol=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_configurations_that_do_not_fit_together(tmp_path):
  config = _config("ASMK")
  for other, word in (
    (_config("ASMK_STAR"), "asmk_star"),
    (_config("ASMK", codebook_size=7), "codebook_size"),
    (_config("ASMK", feature_dimensionality=8), "feature_dimensionality"),
  ):
    with pytest.raises(errors.InputError, match=word):
      _search(tmp_path, other, config)


def test_aggregates_of_two_codebooks_are_refused(tmp_path):
  config = _config("ASMK")
  _write(tmp_path / "q", _QUERIES, config, 1)
  _write(tmp_path / "i", _INDEX, config, 2)
  for folder, codebook in (("q", "abc"), ("i", "abd")):
    record = json.dumps({".asmk": {"codebook": codebook}})
    (tmp_path / folder / "aggregation.json").write_text(record)
    if folder == "q":  # Of the other side nothing is known.
      _search(tmp_path, config, config)
  with pytest.raises(errors.InputError, match="one codebook"):
    _search(tmp_path, config, config)


def test_files_that_do_not_work_are_named(tmp_path):
  config = _config("ASMK")
  _write(tmp_path / "q", _QUERIES, config, 1)
  _write(tmp_path / "i", _INDEX, config, 2)
  _search(tmp_path, config, config)
  path = tmp_path / "i" / "i5.asmk"
  datum_io.WritePairToFile(
    np.ones([10], np.float32), np.array([1], np.uint32), path
  )
  with pytest.raises(errors.InputError, match=r"i5\.asmk"):
    _search(tmp_path, config, config)
  (tmp_path / "q" / "q1.asmk").unlink()
  with pytest.raises(errors.InputError, match=r"q1\.asmk"):
    _search(tmp_path, config, config)
