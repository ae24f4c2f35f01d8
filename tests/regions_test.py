"""Detect-to-Retrieve from photos to a ranking, with models of no training."""

import csv
import pickle
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from delf.aggregation import aggregate, visual_words
from delf.cli import scripts
from delf.embedded import samples
from delf.evaluation import ground_truth, retrieval
from delf.formats import configs as formats_configs
from delf.inference import extractor
from delf.python import box_io, feature_aggregation_similarity, feature_io
from delf.python.detect_to_retrieve import (
  boxes_and_features_extraction,
  extract_aggregation,
  extract_index_boxes_and_features,
)
from tests.stand_ins import tiny_detector, tiny_model

_NAMES = ("first", "second", "third")
_WORDS = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folder of three dark photos, each with a bright part, and their truth."""
  folder = tmp_path_factory.mktemp("photos")
  generator = np.random.default_rng(2)
  for number, name in enumerate(_NAMES):
    pixels = generator.integers(0, 100, [100, 160, 3], dtype=np.uint8)
    pixels[20 + number : 85, 33:120] += 130
    PIL.Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=95)
  truth = [{"easy": [0], "hard": [1], "junk": [], "bbx": [0, 0, 160, 100]}]
  content = {"imlist": list(_NAMES), "qimlist": ["first"], "gnd": truth}
  (folder / "gnd.pkl").write_bytes(pickle.dumps(content))
  return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return tiny_model.save(tmp_path_factory.mktemp("models") / "model")


def _outputs(folder):
  return folder / "features", folder / "boxes", folder / "mapping.csv"


def _extract(photos, config, detector, folder, threshold=0.1):
  return boxes_and_features_extraction.ExtractBoxesAndFeaturesToFiles(
    list(_NAMES),
    [str(photos / f"{name}.jpg") for name in _NAMES],
    str(config),
    str(detector),
    threshold,
    *map(str, _outputs(folder)),
  )


@pytest.mark.parametrize(
  "save", [tiny_detector.save_graph, tiny_detector.save_function]
)
def test_features_are_those_of_the_crop(photos, config, tmp_path, save):
  detector = save(tmp_path / "detector")
  report = _extract(photos, config, detector, tmp_path)
  assert not report.failed and report.regions == 6
  features, boxes, mapping = _outputs(tmp_path)
  extract = extractor.make_extractor(formats_configs.read_local_config(config))
  for name in _NAMES:
    pixels = np.asarray(PIL.Image.open(photos / f"{name}.jpg"))
    ((ymin, xmin, ymax, xmax),), _, _ = box_io.ReadFromFile(
      boxes / f"{name}.boxes"
    )
    top, left = int(np.floor(100 * ymin)), int(np.floor(160 * xmin))
    low, right = int(np.ceil(100 * ymax)), int(np.ceil(160 * xmax))
    crops = pixels, pixels[top:low, left:right]
    for number, crop in enumerate(crops):
      found = feature_io.ReadFromFile(features / f"{name}_{number}.delf")
      wanted = extract.extract(crop).local
      np.testing.assert_array_equal(found[0], wanted.locations)
      np.testing.assert_array_equal(found[2], wanted.descriptors)
      assert (found[0] <= crop.shape[:2]).all()  # Of the crop, not the photo.
  with open(mapping, newline="") as file:
    rows = [tuple(row.values()) for row in csv.DictReader(file)]
  assert rows == [
    (f"{name}_{number}", f"{image}", f"{number - 1}")
    for image, name in enumerate(_NAMES)
    for number in range(2)
  ]


def _script(module, **options):
  flags = [f"--{name}={value}" for name, value in options.items()]
  with pytest.raises(SystemExit) as end:
    scripts.run(module.main, module.define_flags, [module.__name__, *flags])
  return end.value.code


@pytest.fixture(scope="module")
def regions(photos, config, tmp_path_factory):
  """Folder with what the script makes with five boxes a photo."""
  folder = tmp_path_factory.mktemp("regions")
  samples.write_detector(folder / "detector")
  features, boxes, mapping = _outputs(folder)
  status = _script(
    extract_index_boxes_and_features,
    delf_config_path=config,
    detector_model_dir=folder / "detector",
    dataset_file_path=photos / "gnd.pkl",
    images_dir=photos,
    output_boxes_dir=boxes,
    output_features_dir=features,
    output_index_mapping=mapping,
  )
  assert not status
  return folder


def test_the_script_makes_what_the_function_makes(
  regions, photos, config, tmp_path
):
  _extract(photos, config, regions / "detector", tmp_path)
  ours, theirs = (
    {
      path.relative_to(folder): path.read_bytes()
      for path in folder.rglob("*")
      if path.suffix in (".boxes", ".delf", ".csv")
    }
    for folder in (regions, tmp_path)
  )
  assert len(ours) == 3 + 18 + 1 and ours == theirs


@pytest.mark.parametrize("kind", ["VLAD", "ASMK", "ASMK_STAR"])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_index_ranks_regions_by_the_pairwise_similarity(
  regions, photos, tmp_path, kind, normalize
):
  codebook = np.random.default_rng(1).standard_normal([_WORDS, 8])
  visual_words.write_codebook(tmp_path / "codebook", np.float32(codebook))
  features, _, mapping = _outputs(regions)
  configs = {}
  for side, regional in (("index", True), ("query", False)):
    configs[side] = tmp_path / f"{side}.pbtxt"
    configs[side].write_text(
      f"codebook_size: {_WORDS} feature_dimensionality: 8 "
      f'codebook_path: "{tmp_path / "codebook"}" aggregation_type: {kind} '
      f"use_l2_normalization: {str(normalize).lower()} "
      f"use_regional_aggregation: {str(regional).lower()}"
    )
  for path in features.glob("*_0.delf"):
    target = tmp_path / "query_features" / f"{path.stem[:-2]}.delf"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(path.read_bytes())
  common = {"dataset_file_path": photos / "gnd.pkl"}
  assert not _script(
    extract_aggregation,
    aggregation_config_path=configs["index"],
    features_dir=features,
    index_mapping_path=mapping,
    output_aggregation_dir=tmp_path / "index",
    **common,
  )
  assert not _script(
    extract_aggregation,
    use_query_images=True,
    aggregation_config_path=configs["query"],
    features_dir=tmp_path / "query_features",
    output_aggregation_dir=tmp_path / "query",
    **common,
  )
  read = {
    s: formats_configs.read_aggregation_config(p) for s, p in configs.items()
  }
  found = retrieval.search_aggregates(
    ground_truth.read(photos / "gnd.pkl"),
    read["query"],
    read["index"],
    tmp_path / "query",
    tmp_path / "index",
  )
  expected = _pairwise(tmp_path, read["index"])
  np.testing.assert_allclose(
    found.scores[0], expected[found.ids[0]], rtol=1e-5, atol=1e-6
  )
  assert (np.diff(expected[found.ids[0]]) <= 1e-6).all()
  assert len(np.unique(expected)) > 1


def _pairwise(folder, config):
  """Returns the similarity of the query and each image, by the contract."""
  compare = feature_aggregation_similarity.SimilarityAggregatedRepresentation(
    config
  )
  ending = aggregate.extension(config)  # Of regional aggregates, ".r...".
  query, *images = (
    aggregate.read(path, config.feature_dimensionality, _WORDS)
    for path in (
      folder / "query" / f"first.{ending[2:]}",
      *(folder / "index" / f"{name}{ending}" for name in _NAMES),
    )
  )
  return np.array(
    [
      compare.ComputeSimilarity(
        query.descriptors, each.descriptors, query.words, each.words
      )
      for each in images
    ]
  )


def test_numbers_that_differ_are_refused(photos, config, tmp_path):
  extract = boxes_and_features_extraction.ExtractBoxesAndFeaturesToFiles
  with pytest.raises(ValueError, match="3 image_names, but 1 image_paths"):
    extract(list(_NAMES), ["a.jpg"], str(config), "d", 0.1, "f", "b", "m")


def test_importing_the_pipeline_loads_no_tensorflow():
  code = (
    "import sys, delf.extraction.regions as _;"
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert not subprocess.run([sys.executable, "-c", code]).returncode
