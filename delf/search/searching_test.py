import dataclasses
import shutil

import numpy as np
import PIL.Image
import pytest

from delf.aggregation import visual_words
from delf.base import errors
from delf.evaluation import evaluate, submission
from delf.extraction import extract
from delf.formats import features
from delf.matching import matcher
from delf.pictures import results_page
from delf.python import datum_io, feature_io, whiten
from delf.python import feature_aggregation_similarity as similarity
from delf.python.datasets.google_landmarks_dataset import dataset_file_io
from delf.python.datasets.google_landmarks_dataset import (
  metrics as landmark_metrics,
)
from delf.search import building, collection, searching

_IMAGES = [f"i{number:02}" for number in range(12)]
_WORDS, _DIMENSION = 64, 16


def _write(folder, name, place, descriptors, rng):
  """Writes features of one image of a place: shifted, with some noise."""
  folder.mkdir(exist_ok=True)
  shown = descriptors + 0.02 * rng.standard_normal(descriptors.shape)
  shown /= np.linalg.norm(shown, axis=1, keepdims=True)
  feature_io.WriteToFile(
    str(folder / f"{name}.delf"),
    place + rng.uniform(0, 30, [1, 2]),
    np.ones([len(place)]),
    shown,
    np.ones([len(place)]),
  )
  vector = shown.mean(axis=0)
  vector = (vector / np.linalg.norm(vector)).astype(np.float32)
  datum_io.WriteToFile(vector, str(folder / f"{name}.delg_global"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Three places of four images each and a query; a codebook; an index."""
  root = tmp_path_factory.mktemp("search")
  rng = np.random.default_rng(7)
  for number in range(3):
    place = rng.uniform(0, 300, [40, 2])
    descriptors = rng.standard_normal([40, _DIMENSION])
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    for name in _IMAGES[4 * number : 4 * number + 4]:
      _write(root / "features", name, place, descriptors, rng)
    _write(root / "queries", f"q{number}", place, descriptors, rng)
  centers = rng.standard_normal([_WORDS, _DIMENSION]).astype(np.float32)
  centers /= np.linalg.norm(centers, axis=1, keepdims=True)
  visual_words.write_codebook(root / "codebook" / "codebook", centers)
  options = building.BuildOptions(codebook=str(root / "codebook/codebook"))
  building.build([str(root / "features")], root / "index", options, pytest.fail)
  return root


def _search(folders, top=4, **options):
  found = collection.open_folder(folders / "index")
  searcher = searching.Searcher(found, searching.SearchOptions(**options))
  return searcher.search(searching.find_features(folders / "queries"), top)


def _names(result):
  return [[hit.name for hit in hits] for _, hits in result.hits()]


_PLACES = [_IMAGES[:4], _IMAGES[4:8], _IMAGES[8:]]


@pytest.mark.parametrize("method", searching.METHODS)
@pytest.mark.parametrize(
  "more",
  [
    {},
    {"verify": True, "verify_top": 6},
    {"expand": 3},
    {"refine": "superglobal"},
  ],
  ids=str,
)
def test_images_of_the_same_place_come_first(folders, method, more):
  if method == "words" and ("expand" in more or "refine" in more):
    with pytest.raises(errors.InputError, match="--method global or fusion"):
      _search(folders, method=method, **more)
    return
  result = _search(folders, method=method, **more)
  assert [sorted(names) for names in _names(result)] == _PLACES
  assert result.method == method
  assert result.failed == ()


def test_results_come_by_inliers(folders):
  result = _search(folders, top=12, verify=True, verify_top=6)
  for _, hits in result.hits():
    matched = [hit.inliers for hit in hits if hit.inliers is not None]
    assert len(matched) == 6
    assert matched == sorted(matched, reverse=True)
    assert min(matched[:4]) >= 30
    assert max(matched[4:], default=0) < 15
    assert len({hit.name for hit in hits}) == 12


def test_what_was_matched_is_not_matched_again(folders, tmp_path):
  first = _search(folders, verify=True, verify_top=6)
  record = (folders / "index" / "verified_pairs.jsonl").read_bytes()
  again = _search(folders, verify=True, verify_top=6)
  assert (folders / "index" / "verified_pairs.jsonl").read_bytes() == record
  assert first.document() == again.document()


class _Extractor:
  """Makes features of a photo's pixels, in float64, as no file holds them."""

  device = "CPU"

  def extract(self, image, resize_factor=1.0):
    seed, number = int(image[0, 0, 0]), int(image[0, 0, 1])
    rng = np.random.default_rng(seed)
    local = features.LocalFeatures(
      locations=rng.uniform(0, 300, [2, number]).T,
      scales=np.ones([number]),
      descriptors=rng.standard_normal([_DIMENSION, number]).T,
      attention=rng.uniform(size=[number]),
    )
    vector = rng.standard_normal([_DIMENSION]) if number else None
    return features.ImageFeatures(local, vector)


@pytest.fixture
def photos(folders, tmp_path, monkeypatch):
  """Photos to ask with, of an index whose model is `_Extractor`."""

  def make(*_, **__):
    return _Extractor()

  monkeypatch.setattr(extract.extractor, "make_extractor", make)
  (tmp_path / "model").mkdir()
  (tmp_path / "config.pbtxt").write_text(
    f'model_path: "{tmp_path}/model" image_scales: 1.0'
    " use_local_features: true use_global_features: true"
    " delf_local_config { use_pca: false }"
    " delf_global_config { use_pca: false }"
  )
  options = building.BuildOptions(
    config=str(tmp_path / "config.pbtxt"),
    codebook=str(folders / "codebook/codebook"),
  )
  shutil.copytree(folders / "features", tmp_path / "features")
  (tmp_path / "p").mkdir()
  for seed in range(3):
    photo = PIL.Image.new("RGB", (32, 32), (seed, 20, 0))
    photo.save(tmp_path / "p" / f"{seed}.png")
    same = _Extractor().extract(np.asarray(photo))
    path = tmp_path / "features" / f"same{seed}"
    feature_io.write_local_features(f"{path}.delf", same.local)
    datum_io.WriteToFile(same.global_descriptor, f"{path}.delg_global")
  source = [str(tmp_path / "features")]
  building.build(source, tmp_path / "i", options, pytest.fail)
  return tmp_path / "p"


@pytest.fixture
def reads(monkeypatch):
  """Paths of feature files that were read."""
  paths = []
  for module, name in (
    (feature_io, "read_local_features"),
    (datum_io, "ReadFromFile"),
  ):
    read = getattr(module, name)
    monkeypatch.setattr(
      module, name, lambda path, r=read: paths.append(str(path)) or r(path)
    )
  return paths


def test_what_was_just_extracted_is_not_read_back(photos, reads):
  """Only a later run reads it, with the same results to the last bit."""
  found = collection.open_folder(photos.parent / "i")
  options = searching.SearchOptions(
    method="fusion", verify=True, verify_top=6, workers=1
  )
  pages, results = [], []
  for number in range(2):
    asked, report = searching.extract_queries(
      found, searching.find_photos([str(photos)]), pytest.fail
    )
    assert len(report.done) == (3, 0)[number]
    del reads[:]
    searcher = searching.Searcher(found, options)
    results.append(searcher.search(asked, 12))
    searching.write_page(photos.parent / "page.html", found, results[-1])
    pages.append((photos.parent / "page.html").read_bytes())
    of_queries = {path for path in reads if "/queries/" in path}
    assert len(of_queries) == (0, 6)[number]
    assert any("/features/" in path for path in reads)
    (found.folder / "verified_pairs.jsonl").unlink()
  first, second = results
  assert first.document() == second.document()
  assert [hits[0].inliers for _, hits in first.hits()] == [20] * 3
  assert pages[0] == pages[1]


@pytest.mark.parametrize("number", [20, 0])
def test_what_was_just_extracted_is_as_its_file(photos, number):
  for path in photos.iterdir():
    PIL.Image.new("RGB", (32, 32), (7, number, 0)).save(path)
  found = collection.open_folder(photos.parent / "i")
  (query, *_), _ = searching.extract_queries(
    found, searching.find_photos([str(photos)]), pytest.fail
  )
  stored = dataclasses.replace(query, extracted=None)
  ours, theirs = (
    [
      *dataclasses.asdict(each.read(".delf")).values(),
      each.read(".delg_global"),
    ]
    for each in (query, stored)
  )
  for array, read in zip(ours, theirs, strict=True):
    assert array.tobytes() == read.tobytes()
    assert (array.shape, array.dtype) == (read.shape, read.dtype)
    assert array.strides == read.strides


def test_features_are_kept_of_so_many_photos(photos, reads, monkeypatch):
  monkeypatch.setattr(searching, "_KEPT", 2)
  found = collection.open_folder(photos.parent / "i")
  asked, _ = searching.extract_queries(
    found, searching.find_photos([str(photos)]), pytest.fail
  )
  del reads[:]
  options = searching.SearchOptions(method="global")
  assert searching.Searcher(found, options).search(asked, 4).failed == ()
  assert len([path for path in reads if "/queries/" in path]) == 1


def test_words_score_as_the_pairwise_similarity(folders):
  found = collection.open_folder(folders / "index")
  searcher = searching.Searcher(found, searching.SearchOptions(method="words"))
  asked = searching.find_features(folders / "queries")
  _, entries, _ = searcher.read(asked)
  result = searcher.search(asked, 12)
  pairwise = similarity.SimilarityAggregatedRepresentation(
    found.aggregation_config()
  )
  (part,) = [p for p in searcher._parts.values() if p.name == "words"]
  for entry, (_, hits) in zip(entries, result.hits(), strict=True):
    for hit in hits[:5]:
      other = part.read(hit.name)
      expected = pairwise.ComputeSimilarity(
        entry["words"].descriptors.reshape(-1),
        other.descriptors.reshape(-1),
        entry["words"].words,
        other.words,
      )
      assert hit.score == pytest.approx(float(expected), rel=1e-5)


def test_a_query_that_cannot_be_read_is_said(folders, tmp_path):
  (tmp_path / "bad.delg_global").write_bytes(b"\x01")
  found = collection.open_folder(folders / "index")
  asked = searching.find_features(folders / "queries")
  asked += searching.find_features(tmp_path, ["bad", "none"])
  result = searching.Searcher(found).search(asked, 4)
  assert [f.path for f in result.failed] == ["bad", "none"]
  assert [sorted(names) for names in _names(result)] == _PLACES


def test_a_collection_without_words(folders, tmp_path):
  building.build(
    [str(folders / "features")],
    tmp_path / "i",
    building.BuildOptions(),
    pytest.fail,
  )
  found = collection.open_folder(tmp_path / "i")
  for method in ("words", "fusion"):
    with pytest.raises(errors.InputError, match="words.*--codebook"):
      searching.Searcher(found, searching.SearchOptions(method=method))
  with pytest.raises(errors.InputError, match="--model"):
    searching.extract_queries(found, [searching.Query("a", "a.jpg", "")], print)


def test_descriptors_are_whitened(folders, tmp_path):
  rng = np.random.default_rng(3)
  mean = rng.standard_normal([_DIMENSION, 1]).astype(np.float32)
  projection = rng.standard_normal([6, _DIMENSION]).astype(np.float32)
  whiten.write_whitening(str(tmp_path / "w.datum"), mean, projection)
  options = building.BuildOptions(whitening=str(tmp_path / "w.datum"))
  source = [str(folders / "features")]
  building.build(source, tmp_path / "i", options, pytest.fail)
  found = collection.open_folder(tmp_path / "i")
  asked = searching.find_features(folders / "queries")
  result = searching.Searcher(found).search(asked, 12)
  paths = [f"{folders}/features/{name}.delg_global" for name in _IMAGES]
  paths += [query.features + ".delg_global" for query in asked]
  stacked = np.stack([datum_io.ReadFromFile(path) for path in paths], axis=1)
  white = whiten.apply_whitening(stacked, mean, projection)
  expected = white[:, 12:].T @ white[:, :12]
  for row, (_, hits) in enumerate(result.hits()):
    for hit in hits:
      place = _IMAGES.index(hit.name)
      assert hit.score == pytest.approx(expected[row, place], abs=1e-5)
  whiten.write_whitening(str(tmp_path / "w.datum"), mean + 1, projection)
  with pytest.raises(errors.InputError, match="another whitening"):
    building.build(source, tmp_path / "i", options, pytest.fail)


def test_only_what_a_method_needs_is_read(folders, tmp_path):
  shutil.copytree(folders / "index", tmp_path / "i")
  (tmp_path / "i" / "words.index").write_bytes(b"not read")
  (tmp_path / "i" / "global.files.json").write_bytes(b"not read")
  found = collection.open_folder(tmp_path / "i")
  asked = searching.find_features(folders / "queries")
  options = searching.SearchOptions(method="global")
  assert searching.Searcher(found, options).search(asked, 4).failed == ()
  with pytest.raises(errors.InputError, match="words.index"):
    searching.Searcher(found, searching.SearchOptions(method="words"))


def test_matching_looks_only_at_images_it_is_asked_for(folders, tmp_path):
  found = collection.open_folder(folders / "index")
  paths = []
  feature_path = found.feature_path
  found.feature_path = lambda *a: paths.append(a) or feature_path(*a)
  asked = searching.find_features(folders / "queries")[2:]
  options = searching.SearchOptions(verify=True, verify_top=3)
  result = searching.Searcher(found, options).search(asked, 3)
  assert sorted(name for name, _ in paths) == sorted(_names(result)[0])
  assert set(_names(result)[0]) <= set(_PLACES[2])
  assert min(hit.inliers for _, hits in result.hits() for hit in hits) >= 30


def test_page_of_a_search(folders, tmp_path):
  result = _search(folders, verify=True, verify_top=6)
  found = collection.open_folder(folders / "index")
  report = searching.write_page(tmp_path / "page.html", found, result)
  assert isinstance(report, results_page.Report)
  text = (tmp_path / "page.html").read_text()
  assert all(name in text for name in (*_IMAGES, "q0", "q1", "q2"))
  assert f"<title>index: search in {len(_IMAGES)} images</title>" in text


def test_lines_of_a_match_come_weakest_first(folders, monkeypatch):
  found = collection.open_folder(folders / "index")
  result = _search(folders, verify=True, verify_top=6)
  query, hits = next(result.hits())
  hit = max(hits, key=lambda each: each.inliers)
  match = matcher.match_prepared

  def lines(residual):
    """Returns the lines where residuals grow so from inlier to inlier."""

    def matched(*arguments, **options):
      found = match(*arguments, **options)
      residuals = residual * np.arange(found.score)
      return dataclasses.replace(found, residuals=residuals)

    monkeypatch.setattr(matcher, "match_prepared", matched)
    return next(searching._lines(found, query, [hit], result.matching))

  assert len(lines(0)) == hit.inliers > 3
  np.testing.assert_array_equal(lines(1), lines(0)[::-1])
  np.testing.assert_array_equal(lines(-1), lines(0))


def _truth(path):
  lines = ["query,image,label"]
  for number, names in enumerate(_PLACES):
    lines += [f"q{number},{name},easy" for name in names[:2]]
    lines += [f"q{number},{names[2]},hard", f"q{number},{names[3]},junk"]
  path.write_text("\n".join(lines) + "\n")
  return str(path)


@pytest.mark.parametrize("rerank", [0, 6])
def test_evaluation(folders, tmp_path, rerank):
  found = collection.open_folder(folders / "index")
  searcher = searching.Searcher(
    found, searching.SearchOptions(verify=rerank > 0, verify_top=max(rerank, 1))
  )
  truth = evaluate.read_truth(_truth(tmp_path / "truth.csv"), searcher)
  asked = searching.find_features(folders / "queries", truth.query_names)
  report = evaluate.evaluate(searcher, truth, asked, tmp_path / "out")
  for metrics in report.card.evaluation.protocols.values():
    assert metrics.mean_average_precision == 1.0
  assert (tmp_path / "out" / "metrics.txt").read_text().startswith("easy\n")
  evaluate.write_page(report, searcher, tmp_path / "page.html")
  text = (tmp_path / "page.html").read_text()
  assert "Report card" in text
  assert "<title>truth: global" in text
  assert "AP 100.0 (medium)" in text


def test_evaluation_needs_all_queries(folders, tmp_path):
  found = collection.open_folder(folders / "index")
  searcher = searching.Searcher(found)
  truth = evaluate.read_truth(_truth(tmp_path / "truth.csv"), searcher)
  asked = searching.find_features(folders / "queries", truth.query_names)
  asked[1] = dataclasses.replace(asked[1], features=str(tmp_path / "none"))
  with pytest.raises(errors.InputError, match="1 queries lack .* such as q1"):
    evaluate.evaluate(searcher, truth, asked, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_ground_truth_that_names_absent_images(folders, tmp_path):
  found = collection.open_folder(folders / "index")
  path = _truth(tmp_path / "truth.csv")
  with open(path, "a") as file:
    file.write("q0,i99,easy\n")
  with pytest.raises(errors.InputError, match="i99"):
    evaluate.read_truth(path, searching.Searcher(found))


def test_a_result_can_be_submitted_to_the_landmarks_contest(folders, tmp_path):
  result, path = _search(folders, top=4), tmp_path / "retrieval.csv"
  asked = [query.name for query in result.queries]
  submission.write_retrieval(path, asked, result.names, result.ranking.ids)
  solution = {
    name: _IMAGES[4 * i : 4 * i + 4] for i, name in enumerate(sorted(asked))
  }
  found, _ = dataset_file_io.ReadPredictions(
    path, solution, [], [], dataset_file_io.RETRIEVAL_TASK_ID
  )
  assert found == dict(zip(asked, _names(result), strict=True))
  assert landmark_metrics.MeanAveragePrecision(found, solution) == 1.0
