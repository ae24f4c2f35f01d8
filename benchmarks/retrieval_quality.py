"""How good search is with the embedded model, on 143 photos of Oxford.

`python -m benchmarks.retrieval_quality` trains a codebook on the training
photos (or takes `--codebook`), indexes the photos of `mini_roxford5k`, asks its
nine queries in each way, and prints the metrics beside those of random rankings
and of RootSIFT with MAGSAC, which come with the photos. Nothing is chosen on
these photos. With `--work FOLDER` what was done is kept.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from benchmarks import _matching_sets
from delf.python import errors
from delf.python.pipelines import (
  build_index,
  cluster,
  collection,
  evaluate,
  image_names,
  queries,
  search,
)

WORDS = 4096
_TRAINING = ("train_pool", "train_pool_more")
_OPTIONS = search.SearchOptions
_ROWS = {
  "global": _OPTIONS(),
  "global + alpha-QE": _OPTIONS(expand=3),
  "global + SuperGlobal's refinement": _OPTIONS(refine="superglobal"),
  "global + diffusion": _OPTIONS(refine="diffusion"),
  "global + verification": _OPTIONS(rerank=100),
  "global + alpha-QE + verification": _OPTIONS(expand=3, rerank=100),
  "ASMK*": _OPTIONS(method="words"),
  "ASMK* + verification": _OPTIONS(method="words", rerank=100),
  "fusion": _OPTIONS(method="fusion"),
  "fusion + alpha-QE": _OPTIONS(method="fusion", expand=3),
  "fusion + verification": _OPTIONS(method="fusion", rerank=100),
}


def _say(line):
  print(line, file=sys.stderr)


def train_codebook(data, work, quick):
  """Trains a codebook on the training photos; returns its prefix.

  Args:
    data: Folder of the photos.
    work: Folder for the features and the codebook.
    quick: Whether few photos and words are enough.
  """
  prefix = work / "codebook" / "codebook"
  if prefix.with_name("codebook.index").exists():
    return str(prefix)
  from delf.python.inference import zoo
  from delf.python.pipelines import extract

  images, names = image_names.find(
    [data / pool / "images" for pool in _TRAINING]
  )
  if quick:
    images, names = images[:60], names[:60]
  config = zoo.default_config("delf-compact")
  folder = work / "training_features"
  extract.extract_and_say(images, config, folder, _say, names=names)
  paths = [folder / f"{name}.delf" for name in names]
  report = cluster.cluster_files(
    paths,
    str(prefix),
    num_clusters=256 if quick else WORDS,
    num_iterations=15,
    max_features=600_000,
  )
  print(f"codebook: {report.summary()}")
  return str(prefix)


def _print(name, protocols):
  """Prints a row: {protocol: (mAP, [mP@1, mP@5, mP@10])}, fractions."""
  columns = []
  for protocol in ("medium", "hard"):
    mean, precisions = protocols[protocol]
    at = "/".join(f"{100 * value:.1f}" for value in precisions)
    columns.append(f"{100 * mean:7.2f}  {at:16}")
  print(f"{name:36}{''.join(columns)}", flush=True)


def _print_baselines(data):
  """Prints the rows that come with the photos."""
  found = json.loads((data / "baseline.json").read_text())
  rows = {"random": "random_mean_of_200", "RootSIFT + MAGSAC": "sift_ransac"}
  for name, key in rows.items():
    if key in found:
      both = {"medium": found[key]["M"], "hard": found[key]["H"]}
      _print(
        name,
        {
          protocol: (row["mAP"], [row["mP"][at] for at in ("1", "5", "10")])
          for protocol, row in both.items()
        },
      )


def measure(data, work, codebook, rows):
  """Prints the table."""
  photos = data / "mini_roxford5k"
  truth_path = str(photos / "gnd.json")
  images, names = evaluate.find_index_photos(truth_path, photos / "jpg")
  options = build_index.BuildOptions(codebook=codebook)
  folder = work / "index"
  build_index.build_photos(images, names, folder, options, _say)
  found = collection.open_folder(folder)
  head = "".join(f"{name:>7}  {'mP@1/5/10':16}" for name in ("medium", "hard"))
  print(f"{'':36}{head}")
  _print_baselines(photos)
  asked = None
  for name, row in rows.items():
    searcher = search.Searcher(found, row)
    truth = evaluate.read_truth(truth_path, searcher)
    if asked is None:
      asked, _ = queries.of_photos(
        found, evaluate.find_photos(truth, photos / "jpg"), _say
      )
    report = evaluate.evaluate(searcher, truth, asked, work / "out")
    _print(
      name,
      {
        protocol: (metrics.mean_average_precision, metrics.mean_precisions)
        for protocol, metrics in report.card.evaluation.protocols.items()
      },
    )


def main():
  """Runs the benchmark; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, default=_matching_sets.DATA)
  parser.add_argument("--codebook", metavar="PREFIX")
  parser.add_argument("--work", type=pathlib.Path, metavar="FOLDER")
  parser.add_argument(
    "--quick", action="store_true", help="few words, and no verification"
  )
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  try:
    with tempfile.TemporaryDirectory() as temporary:
      work = args.work or pathlib.Path(temporary)
      codebook = args.codebook or train_codebook(args.data, work, args.quick)
      rows = {
        name: row
        for name, row in _ROWS.items()
        if not (args.quick and row.rerank)
      }
      measure(args.data, work, codebook, rows)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
