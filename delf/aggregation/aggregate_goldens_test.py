"""Aggregation and similarity as the original computed them."""

import functools
import json

import numpy as np
import pytest

from delf.aggregation import visual_words
from delf.base import errors
from delf.protos import aggregation_config_pb2
from delf.python import (
  feature_aggregation_extractor,
  feature_aggregation_similarity,
)
from tests.stand_ins import npz

_TAGS = (
  "k64d16",
  "k64d16_batching",
  "ties_k6d2",
  "k32d12",
  "k32d5",
  "k1024d128",
)
_TYPES = {"vlad": "VLAD", "asmk": "ASMK", "asmk_star": "ASMK_STAR"}


def _config(key, codebook_path="", shape=(1, 1)):
  """Returns the configuration that a key such as `rvlad_na5_l2_bs7` names."""
  name, _, rest = key.partition("_na")
  number, *words = rest.split("_")
  batch = [word[2:] for word in words if word.startswith("bs")]
  return aggregation_config_pb2.AggregationConfig(
    codebook_size=shape[0],
    feature_dimensionality=shape[1],
    aggregation_type=_TYPES[name.removeprefix("r")],
    use_l2_normalization="nol2" not in words,
    codebook_path=str(codebook_path),
    num_assignments=int(number),
    use_regional_aggregation=name.startswith("r"),
    feature_batch_size=int(batch[0]) if batch else 100,
  )


@functools.cache
def _golden(goldens, tag):
  return npz.read(goldens / f"agg_{tag}.npz")


@pytest.mark.parametrize("tag", _TAGS)
def test_aggregates_are_those_of_the_original(tag, goldens, tmp_path):
  golden = _golden(goldens, tag)
  visual_words.write_codebook(tmp_path / "codebook", golden["codebook"])
  cases = [key.removesuffix("|desc") for key in golden if key.endswith("desc")]
  assert cases
  for case in cases:
    key, image = case.split("|")
    config = _config(key, tmp_path / "codebook", golden["codebook"].shape)
    found = feature_aggregation_extractor.ExtractAggregatedRepresentation(
      config
    )
    regions = golden[f"regions_{image}"] if key.startswith("r") else None
    descriptors, words = found.Extract(golden[f"in_{image}"], regions)
    expected, vw = golden[f"{case}|desc"], golden[f"{case}|vw"]
    assert descriptors.dtype == expected.dtype, case
    assert np.asarray(words).dtype == vw.dtype, case
    np.testing.assert_array_equal(words, vw, case)
    if "star" in key:
      assert descriptors.tobytes() == expected.tobytes(), case
    else:
      np.testing.assert_allclose(
        descriptors, expected, rtol=0, atol=2e-6, err_msg=case
      )


@pytest.mark.parametrize("tag", _TAGS)
def test_similarities_are_those_of_the_original(tag, goldens):
  golden = _golden(goldens, tag)
  with open(goldens / "agg_meta.json") as file:
    sims = json.load(file)[tag]["sims"]
  for name in (name for name in golden if name.startswith("sim|")):
    _, key, settings = name.split("|")
    alpha, tau, normalize = settings.split("_")
    config = _config(key, shape=golden["codebook"].shape)
    config.alpha, config.tau = float(alpha[5:]), float(tau[3:])
    config.use_l2_normalization = normalize == "l2"
    compare = feature_aggregation_similarity.SimilarityAggregatedRepresentation(
      config
    ).ComputeSimilarity
    images = sims[name]
    sets = [
      [golden[f"{key}|{image}|{part}"] for part in ("desc", "vw")]
      for image in images
    ]
    found = [
      [compare(one[0], two[0], one[1], two[1]) for two in sets] for one in sets
    ]
    np.testing.assert_allclose(
      found, golden[name], rtol=1e-5, atol=1e-7, err_msg=name
    )


@pytest.fixture
def extractor(goldens, tmp_path):
  """Returns a function (key, changes) -> extractor of the codebook [64, 16]."""
  codebook = _golden(goldens, "k64d16")["codebook"]
  visual_words.write_codebook(tmp_path / "codebook", codebook)

  def make(key, **changes):
    config = _config(key, tmp_path / "codebook", codebook.shape)
    for name, value in changes.items():
      setattr(config, name, value)
    return feature_aggregation_extractor.ExtractAggregatedRepresentation(config)

  return make


_REGIONS = {"None": None, "[]": [], "all_zero": [0, 0], "wrong_sum": [1, 2]}


@pytest.mark.parametrize("regions", _REGIONS)
@pytest.mark.parametrize("kind", _TYPES)
def test_edges_of_regions_are_those_of_the_original(
  kind, regions, goldens, extractor
):
  with open(goldens / "agg_meta.json") as file:
    state, expected = json.load(file)["edge"][f"{kind} regions={regions}"]
  features = _golden(goldens, "k64d16")["in_n50"]
  if regions == "all_zero":
    features = features[:0]
  extract = extractor(f"r{kind}_na1").Extract
  if state == "raises":
    words = r"Incorrect arguments: sum\(num_features_per_region\).* 3 vs 50"
    with pytest.raises(errors.InputError, match=words):
      extract(features, _REGIONS[regions])
    return
  descriptors, words = extract(features, _REGIONS[regions])
  assert descriptors.dtype == expected["desc_dtype"]
  assert list(descriptors.shape) == expected["desc_shape"]
  assert np.count_nonzero(descriptors) == expected["desc_nonzero"] == 0
  assert np.asarray(words).tolist() == expected["vw"]


def test_errors_of_the_original_are_errors_of_one_line(extractor, tmp_path):
  cases = {
    "INVALID": {"aggregation_type": 0},
    "missing": {"codebook_path": str(tmp_path / "missing")},
    r"\[63, 16\]": {"codebook_size": 63},
    r"\[64, 15\]": {"feature_dimensionality": 15},
    "num_assignments": {"num_assignments": 65},
  }
  for words, change in cases.items():
    kind = FileNotFoundError if words == "missing" else errors.InputError
    with pytest.raises(kind, match=words) as caught:
      extractor("asmk_na1", **change)
    assert "\n" not in str(caught.value)
  with pytest.raises(errors.InputError, match="dimension 16.*15"):
    extractor("asmk_na1").Extract(np.ones([3, 15]))
  with pytest.raises(errors.InputError, match="NaN"):
    extractor("asmk_na1").Extract(np.full([3, 16], np.nan))


def test_similarity_has_the_original_s_errors(goldens):
  with open(goldens / "agg_similarity_errors.json") as file:
    expected = json.load(file)
  star, words = np.zeros([2, 2], np.uint8), np.array([1, 5])
  none = np.zeros([0], np.uint8)
  cases = {
    "star float input": ("asmk_star", star + 0.5, star, words, words),
    "star uint32 input": (
      "asmk_star", star.astype(np.uint32), star, words, words,
    ),
    "star dim mismatch": ("asmk_star", star, star[:, :1], words, words),
    "star empty": ("asmk_star", none, star, none, words),
    "star identical": ("asmk_star", star, star, words, words),
    "star disjoint": ("asmk_star", star, star, words, words + 1),
    "asmk wrong dim": ("asmk", np.ones(20), np.ones(32), words, words),
    "invalid type only raised on use": ("", star, star, words, words),
  }  # fmt: skip
  assert set(cases) == set(expected)
  for name, (kind, *arrays) in cases.items():
    config = _config(f"{kind or 'asmk'}_na1", shape=(64, 16))
    if not kind:
      config.aggregation_type = config.INVALID
    compare = feature_aggregation_similarity.SimilarityAggregatedRepresentation(
      config
    ).ComputeSimilarity
    state, value = expected[name]
    if state == "ok":
      assert compare(*arrays) == value, name
    else:
      with pytest.raises(errors.InputError):
        compare(*arrays)
