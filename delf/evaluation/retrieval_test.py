import json

import numpy as np
import pytest

from delf.aggregation import aggregate
from delf.base import errors
from delf.evaluation import ground_truth, retrieval
from delf.indexes import ranking
from delf.matching import matcher, verification
from delf.protos import aggregation_config_pb2
from delf.python import datum_io, feature_aggregation_similarity, feature_io
from delf.python.datasets.revisited_op import dataset

_OPTIONS = matcher.DETECT_TO_RETRIEVE
_NAMES = [f"i{number}" for number in range(12)]


def _truth(names=_NAMES):
  """Returns ground truth of q0 (easy i1, hard i4, junk i3), q1 (hard i2)."""
  return ground_truth.GroundTruth(
    dataset="own",
    index_names=tuple(names),
    query_names=("q0", "q1"),
    easy=(np.array([1]), np.zeros([0], int)),
    hard=(np.array([4]), np.array([2])),
    junk=(np.array([3]), np.zeros([0], int)),
    boxes=(None, None),
  )


@pytest.fixture
def folder(tmp_path):
  """A folder of global descriptors and local features.

  Query q0 shares points with i4 and i3, q1 with i2, though their global
  descriptors are the least alike.
  """
  random = np.random.default_rng(0)
  sides = {}
  for name in ["q0", "q1", *_NAMES]:
    descriptors = random.normal(size=(40, 16))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    sides[name] = random.uniform(0, 400, (40, 2)), descriptors
  for name, query in (("i4", "q0"), ("i3", "q0"), ("i2", "q1")):
    sides[name] = 1.2 * sides[query][0] + 9, sides[query][1]
  for name, side in sides.items():
    _write_local(tmp_path, name, *side)
    angle = 0.1 * int(name[1:]) if name[0] == "i" else 1.2
    _write_global(tmp_path, name, [np.cos(angle), np.sin(angle)])
  return tmp_path


def _write_local(folder, name, locations, descriptors):
  ones = np.ones([len(locations)])
  path = str(folder / f"{name}.delg_local")
  feature_io.WriteToFile(path, locations, ones, descriptors, ones)


def _write_global(folder, name, descriptor):
  path = str(folder / f"{name}.delg_global")
  datum_io.WriteToFile(np.array(descriptor, np.float32), path)


def _local(folder):
  return retrieval.local_files(_truth(), folder, folder, ".delg_local")


def test_global_descriptors_rank_by_dot_product(folder):
  found = retrieval.search_global(_truth(), folder, folder)
  assert found.ids.tolist() == [list(range(12))[::-1]] * 2
  np.testing.assert_allclose(
    found.scores[0], np.cos(1.2 - 0.1 * np.arange(12)[::-1]), rtol=1e-6
  )


def test_an_image_too_small_for_a_descriptor_is_last(folder):
  _write_global(folder, "i11", [])
  found = retrieval.search_global(_truth(), folder, folder)
  assert found.ids[:, -1].tolist() == [11, 11]


def test_metrics_are_those_of_the_ranking(folder):
  truth = _truth()
  found = retrieval.search_global(truth, folder, folder)
  report = retrieval.evaluate(truth, found, folder / "out")
  mean, ranks, precisions, recalls = dataset.ReadMetricsFile(
    report.metrics_path
  )
  assert set(mean) == {"medium", "hard"}
  assert ranks.tolist() == [1, 5, 10]
  expected = dataset.ComputeMetrics(
    found.ids, truth.protocols()["hard"], [1, 5, 10]
  )
  assert mean["hard"] == pytest.approx(expected[0], abs=1e-4)
  np.testing.assert_allclose(precisions["hard"], expected[1], atol=1e-4)
  np.testing.assert_allclose(recalls["hard"], expected[2], atol=1e-4)
  assert report.say(print, print) == 0 and report.inliers == {}


def test_fewer_images_than_a_rank(folder):
  truth = _truth(_NAMES[:6])
  found = retrieval.search_global(truth, folder, folder)
  report = retrieval.evaluate(truth, found, folder / "out")
  assert dataset.ReadMetricsFile(report.metrics_path)[1].tolist() == [1, 5]


def test_verification_reranks_each_protocol_by_itself(folder):
  truth = _truth()
  found = retrieval.search_global(truth, folder, folder)
  report = retrieval.evaluate(
    truth, found, folder / "out", _local(folder), _OPTIONS
  )
  ids, inliers = report.ids["medium"], report.inliers["medium"]
  assert (ids[0, 0], ids[1, 0]) == (4, 2)
  assert inliers[:, 0].tolist() == [40, 40]
  # i3 has all of q0's points, and is junk: 0 inliers, by its global score.
  assert inliers[0][ids[0] == 3] == 0
  others = ids[0][inliers[0] == 0].tolist()
  assert others == sorted(others, reverse=True)
  # Of the 12 + 12, junk of both protocols needs no verification.
  assert len(report.verification.pairs) == 23
  assert report.evaluation.protocols["hard"].mean_average_precision == 1
  record = folder / "out" / verification.RECORD
  assert record.read_bytes().count(b"\n") == 23
  again = retrieval.evaluate(
    truth, found, folder / "out", _local(folder), _OPTIONS
  )
  assert again.verification.resumed == 23
  assert again.ids["hard"].tolist() == report.ids["hard"].tolist()


def test_a_pair_that_both_protocols_need_is_verified_once(folder, monkeypatch):
  asked = []
  original = verification.Verifier.__call__

  def count(self, pairs):
    asked.extend(pairs)
    return original(self, pairs)

  monkeypatch.setattr(verification.Verifier, "__call__", count)
  truth = _truth()
  found = retrieval.search_global(truth, folder, folder)
  retrieval.evaluate(truth, found, folder / "out", _local(folder), _OPTIONS)
  assert len(asked) == len(set(asked))


def test_a_broken_index_file_is_reported_and_the_metrics_are_written(folder):
  truth = _truth()
  (folder / "i4.delg_local").write_bytes(b"\x0a")
  found = retrieval.search_global(truth, folder, folder)
  report = retrieval.evaluate(
    truth, found, folder / "out", _local(folder), _OPTIONS
  )
  assert report.say(print, print) == 1
  lines, problems = [], []
  assert report.say(lines.append, problems.append) == 1
  assert len(problems) == 1 and "i4.delg_local" in problems[0]
  assert "mAP" in "".join(lines)
  assert (folder / "out" / "metrics.txt").exists()


@pytest.mark.parametrize(
  ("name", "descriptor", "words"),
  [
    ("i3", [np.nan, 1], ["i3.delg_global", "NaN"]),
    ("i3", [1, 2, 3], ["i3.delg_global", "2", "3"]),
    ("q1", [1, 2, 3], ["q1.delg_global", "2", "3"]),
    ("i3", [[1, 2]], ["i3.delg_global", "[1, 2]"]),
  ],
)
def test_descriptors_that_cannot_be_are_named(folder, name, descriptor, words):
  _write_global(folder, name, descriptor)
  with pytest.raises(errors.InputError) as error:
    retrieval.search_global(_truth(), folder, folder)
  for word in words:
    assert word in str(error.value)


def test_missing_files_are_named_before_any_work(folder):
  (folder / "q1.delg_local").unlink()
  found = ranking.top_k(np.zeros([2, 12]))
  with pytest.raises(errors.InputError, match=r"1 of 2 .*q1\.delg_local"):
    retrieval.evaluate(
      _truth(), found, folder / "out", _local(folder), _OPTIONS
    )
  (folder / "q0.delg_global").unlink()
  with pytest.raises(errors.InputError, match=r"q0\.delg_global"):
    retrieval.search_global(_truth(), folder, folder)
  with pytest.raises(FileNotFoundError, match="nowhere"):
    retrieval.search_global(_truth(), folder / "nowhere", folder)


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
  codebook = aggregate.Words(codebook.astype(np.float32))
  folder.mkdir(exist_ok=True)
  found = []
  for name in names:
    number = 0 if name in empty else random.integers(3, 9)
    features = random.normal(size=(number, _DIMENSION)).astype(np.float32)
    regions = [number] if config.use_regional_aggregation else None
    found.append(
      aggregate.aggregate(
        codebook,
        features,
        aggregate.options(config),
        regions,
      )
    )
    path = folder / f"{name}{aggregate.extension(config)}"
    aggregate.write(path, found[-1])
  return found


def _search(folder, query_config, index_config):
  return retrieval.search_aggregates(
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
  with pytest.raises(errors.InputError, match="with two codebooks"):
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
