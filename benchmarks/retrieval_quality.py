"""Quality of each method of search, on 143 photos of Oxford.

`python -m benchmarks.retrieval_quality` trains a codebook on the training
photos (or takes `--codebook`), indexes the photos of `mini_roxford5k`, searches
with its nine queries by each method, and prints metrics beside those of random
rankings and of RootSIFT with MAGSAC, which come with the photos. These photos
are not used to choose anything. `--work FOLDER` keeps intermediate results.
`--model` is a name, a folder or a configuration (`.pbtxt`).
`benchmarks.model_quality` has some of the rows, and RootSIFT with our matching.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from benchmarks.shared import methods, photo_pairs
from delf.aggregation import clustering
from delf.base import errors
from delf.evaluation import evaluate
from delf.extraction import engine
from delf.search import building, collection, searching

WORDS, QUICK_WORDS = 4096, 256
_TRAINING = ("train_pool", "train_pool_more")
_OPTIONS = searching.SearchOptions
ROWS = {
  "global": _OPTIONS(),
  "global + alpha-QE": _OPTIONS(expand=3),
  "global + SuperGlobal's refinement": _OPTIONS(refine="superglobal"),
  "global + diffusion": _OPTIONS(refine="diffusion"),
  "global + verification": _OPTIONS(verify=True),
  "global + alpha-QE + verification": _OPTIONS(expand=3, verify=True),
  "ASMK*": _OPTIONS(method="words"),
  "ASMK* + verification": _OPTIONS(method="words", verify=True),
  "fusion": _OPTIONS(method="fusion"),
  "fusion + alpha-QE": _OPTIONS(method="fusion", expand=3),
  "fusion + verification": _OPTIONS(method="fusion", verify=True),
}


def _say(line):
  print(line, file=sys.stderr)


def train_codebook(data, work, quick, model="delf-compact"):
  """Train a codebook on the training photos; return its prefix.

  Args:
    data: Folder of the photos.
    work: Folder for the features and the codebook.
    quick: Whether few photos and words are enough.
    model: Name, folder or configuration of the model.
  """
  prefix = work / "codebook" / "codebook"
  if prefix.with_name("codebook.index").exists():
    return str(prefix)
  from delf.extraction import extract

  images, names = engine.find([data / pool / "images" for pool in _TRAINING])
  if quick:
    images, names = images[:60], names[:60]
  config = methods.config_of(model)
  config.use_local_features, config.use_global_features = True, False
  folder = work / "training_features"
  extract.extract_to_files(images, config, folder, say=_say, names=names)
  paths = [folder / f"{name}.delf" for name in names]
  report = clustering.cluster_files(
    paths,
    str(prefix),
    num_clusters=QUICK_WORDS if quick else WORDS,
    num_iterations=15,
    max_features=600_000,
  )
  print(f"codebook: {report.summary()}")
  return str(prefix)


def _print(name, protocols):
  """Print a row: {protocol: (mAP, [mP@1, mP@5, mP@10])}, fractions."""
  columns = []
  for protocol in ("medium", "hard"):
    mean, precisions = protocols[protocol]
    at = "/".join(f"{100 * value:.1f}" for value in precisions)
    columns.append(f"{100 * mean:7.2f}  {at:16}")
  print(f"{name:36}{''.join(columns)}", flush=True)


def print_table(rows):
  """Print a table of {name: {protocol: (mAP, [mP@1, mP@5, mP@10])}}."""
  head = "".join(f"{name:>7}  {'mP@1/5/10':16}" for name in ("medium", "hard"))
  print(f"{'':36}{head}")
  for name, row in rows.items():
    _print(name, row)


def baselines(data):
  """Return the rows that come with the photos, as `measure` does."""
  path = data / "mini_roxford5k" / "baseline.json"
  found = json.loads(path.read_text())
  rows = {}
  known = {"random": "random_mean_of_200", "RootSIFT + MAGSAC": "sift_ransac"}
  for name, key in known.items():
    if key in found:
      both = {"medium": found[key]["M"], "hard": found[key]["H"]}
      rows[name] = {
        protocol: (row["mAP"], [row["mP"][at] for at in ("1", "5", "10")])
        for protocol, row in both.items()
      }
  return rows


def measure(data, work, codebook, rows, model=None):
  """Search by each method.

  Args:
    data: Folder of the data sets.
    work: Folder for intermediate results.
    codebook: Prefix of a codebook of the model's features.
    rows: {name: SearchOptions}.
    model: Name, folder or configuration, or None for the embedded model.

  Returns:
    {name: {protocol: (mAP, [mP@1, mP@5, mP@10])}}, fractions.
  """
  photos = data / "mini_roxford5k"
  truth_path = str(photos / "gnd.json")
  images, names = evaluate.find_index_photos(truth_path, photos / "jpg")
  kind = "config" if str(model).endswith(".pbtxt") else "model"
  options = building.BuildOptions(codebook=codebook, **{kind: model})
  folder = work / "index"
  building.build_photos(images, names, folder, options, _say)
  found = collection.open_folder(folder)
  asked, results = None, {}
  for name, row in rows.items():
    searcher = searching.Searcher(found, row)
    truth = evaluate.read_truth(truth_path, searcher)
    if asked is None:
      asked, _ = searching.extract_queries(
        found, evaluate.find_photos(truth, photos / "jpg"), _say
      )
    report = evaluate.evaluate(searcher, truth, asked, work / "out")
    results[name] = {
      protocol: (metrics.mean_average_precision, metrics.mean_precisions)
      for protocol, metrics in report.card.evaluation.protocols.items()
    }
  return results


def main():
  """Run the benchmark; return its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, default=photo_pairs.DATA)
  parser.add_argument("--model", default="delf-compact")
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
      codebook = args.codebook or train_codebook(
        args.data, work, args.quick, args.model
      )
      rows = {
        name: row
        for name, row in ROWS.items()
        if not (args.quick and row.rerank)
      }
      found = measure(args.data, work, codebook, rows, args.model)
      print_table(baselines(args.data) | found)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
