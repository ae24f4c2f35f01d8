"""Quality of search with and without boxes, on 143 photos of Oxford.

`python -m benchmarks.region_quality` follows the Detect-to-Retrieve guide with
`mini_roxford5k`: boxes of a detector (`--detector`, `--threshold`, `--most`),
features of photos and boxes, ASMK* of whole photos and R-ASMK* of their regions
with a codebook of the training photos, nine queries, with and without
verification. Then the same with global descriptors of whole photos and regions.
These photos are not used to choose anything. `--work FOLDER` keeps intermediate
results, so that a repeated run resumes.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile

from benchmarks import retrieval_quality
from benchmarks.shared import photo_pairs
from delf.aggregation import aggregate_files
from delf.base import errors, files
from delf.evaluation import evaluate, ground_truth, retrieval
from delf.extraction import extract, regions
from delf.formats import configs
from delf.python.detect_to_retrieve import perform_retrieval
from delf.search import building, collection, searching

_SCRIPTS = pathlib.Path(perform_retrieval.__file__).parent
_MODEL = _SCRIPTS.parent / "examples" / "delf_compact_config.pbtxt"
_WHOLE, _REGIONS = "whole photos", "regions"


@dataclasses.dataclass(frozen=True)
class _Sets:
  """Folders of the photos and of the results."""

  photos: pathlib.Path
  work: pathlib.Path

  @property
  def truth(self):
    return str(self.photos / "gnd_mini_roxford5k.mat")

  def images(self, kind):
    folder = str(self.photos / "jpg")
    return ground_truth.read_dataset_images(
      self.truth, kind, folder, scale_limits=False
    )


def _say(line):
  print(line, file=sys.stderr)


def _extract(sets, args):
  """Extract features of queries, of photos and of boxes."""
  config = configs.read_local_config(str(_MODEL))
  asked = sets.images(ground_truth.QUERY)
  extract.extract_to_files(
    asked.paths,
    config,
    sets.work / "query",
    say=_say,
    names=asked.names,
    crops=asked.crops,
  )
  images = sets.images(ground_truth.INDEX)
  report = regions.extract_regions(
    images.paths,
    config,
    args.detector,
    sets.work / "features",
    sets.work / "boxes",
    str(sets.work / "mapping.csv"),
    say=_say,
    names=images.names,
    threshold=args.threshold,
    most=args.most,
    device="cpu",
    one_core_each=True,
  )
  if report.exit_status:
    raise errors.InputError(f"regions are incomplete: {report.summary()}")
  lines = (sets.work / "mapping.csv").read_text().splitlines()
  kept = [line for line in lines if line.endswith((",-1", "box_id"))]
  (sets.work / "whole.csv").write_text("\n".join(kept) + "\n")
  found, number = len(lines) - len(kept), len(kept) - 1
  print(f"{found} boxes of {number} photos ({args.detector})")


def _aggregation(codebook, kind, words):
  name = "_regional" if kind == _REGIONS else ""
  path = _SCRIPTS / f"delf_compact{name}_aggregation_config.pbtxt"
  config = configs.read_aggregation_config(str(path))
  config.codebook_path = codebook
  config.codebook_size = words
  return config


def _rank(sets, codebook, kind, words):
  """Aggregate the queries and the photos; return a ranking.Ranking."""
  mappings = {_WHOLE: "whole.csv", _REGIONS: "mapping.csv"}
  query, index = (
    _aggregation(codebook, each, words) for each in (_WHOLE, kind)
  )
  aggregate_files.aggregate_to_files(
    sets.images(ground_truth.QUERY).names,
    sets.work / "query",
    query,
    sets.work / "aggregates_query",
  )
  aggregate_files.aggregate_to_files(
    sets.images(ground_truth.INDEX).names,
    sets.work / "features",
    index,
    sets.work / f"aggregates_{kind}",
    str(sets.work / mappings[kind]),
  )
  return retrieval.search_aggregates(
    retrieval.read_truth(sets.truth),
    query,
    index,
    sets.work / "aggregates_query",
    sets.work / f"aggregates_{kind}",
  )


def _scores(evaluation):
  return {
    name: (metrics.mean_average_precision, metrics.mean_precisions)
    for name, metrics in evaluation.protocols.items()
  }


def by_words(sets, codebook, quick=False):
  """Return rows of ASMK* and R-ASMK*, with verification unless `quick`."""
  truth, rows = retrieval.read_truth(sets.truth), {}
  local = retrieval.local_files(
    truth, sets.work / "query", sets.work / "features", files.DELF
  )
  for kind, name in ((_WHOLE, "ASMK*"), (_REGIONS, "R-ASMK*")):
    words = retrieval_quality.QUICK_WORDS if quick else retrieval_quality.WORDS
    found = _rank(sets, codebook, kind, words)
    for verified in (None,) if quick else (None, local):
      row = name if verified is None else f"{name} + verification"
      report = retrieval.evaluate(
        truth,
        found,
        str(sets.work / "results" / row.replace("*", "_star")),
        verified,
      )
      rows[row] = _scores(report.evaluation)
  return rows


def by_global(sets, args):
  """Return rows of global descriptors, with and without regions."""
  truth_path = str(sets.photos / "gnd.json")
  images, names = evaluate.find_index_photos(truth_path, sets.photos / "jpg")
  regions = collection.RegionSettings(args.detector, args.threshold, args.most)
  options = building.BuildOptions(regions=regions)
  building.build_photos(images, names, sets.work / "index", options, _say)
  found, rows, asked = collection.open_folder(sets.work / "index"), {}, None
  for name, only_whole in (("global", True), ("global, best region", False)):
    searcher = searching.Searcher(
      found, searching.SearchOptions(regions=not only_whole)
    )
    truth = evaluate.read_truth(truth_path, searcher)
    if asked is None:
      asked, _ = searching.extract_queries(
        found, evaluate.find_photos(truth, sets.photos / "jpg"), _say
      )
    report = evaluate.evaluate(searcher, truth, asked, sets.work / "out")
    rows[name] = _scores(report.card.evaluation)
  return rows


def main():
  """Run the benchmark; return its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, default=photo_pairs.DATA)
  parser.add_argument("--detector", default="delf-boxes", metavar="NAME|PATH")
  parser.add_argument("--threshold", type=float, default=0.1)
  parser.add_argument("--most", type=int, default=5, help="boxes of a photo")
  parser.add_argument("--codebook", metavar="PREFIX")
  parser.add_argument("--work", type=pathlib.Path, metavar="FOLDER")
  parser.add_argument(
    "--quick", action="store_true", help="few words, no verification"
  )
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  try:
    with tempfile.TemporaryDirectory() as temporary:
      work = args.work or pathlib.Path(temporary)
      sets = _Sets(args.data / "mini_roxford5k", work)
      codebook = args.codebook or retrieval_quality.train_codebook(
        args.data, work, args.quick
      )
      _extract(sets, args)
      rows = retrieval_quality.baselines(args.data)
      rows |= by_words(sets, codebook, args.quick) | by_global(sets, args)
      retrieval_quality.print_table(rows)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
