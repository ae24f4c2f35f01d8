"""Quality of models compared with RootSIFT, with the same robust estimation.

`python -m benchmarks.model_quality` measures on the evaluation sets (matching,
poses, retrieval), and compares the results with the requirements of the model.
These sets are not used to choose anything.

`--validation` measures on held-out photos: pairs of photos of a place ("centre"
with the first of the group, "others"), views of such pairs ("warped"), views of
a photo under stronger homographies than in training ("synthetic"), and with
tilts up to 60 degrees, a third of the size, any rotation and another background
("strong"). Then it measures retrieval by global descriptors: a photo must find
the other photos of its group, and views of a photo must find the photo.

Results of RootSIFT are cached in the folder of temporary files.
"""

import argparse
import pathlib
import sys

from benchmarks import retrieval_quality
from benchmarks.shared import (
  held_out_photos,
  held_out_queries,
  methods,
  oxford_retrieval,
  pair_results,
  photo_pairs,
  requirements,
)
from delf.base import errors


def measure_pairs(pairs, models, estimation, root_sift=True):
  """Match a set by all methods, print tables, and return the summaries.

  Args:
    pairs: PairSet.
    models: {label: model}.
    estimation: Estimation.
    root_sift: Whether to measure it beside them.

  Returns:
    {method: {group: {figure: Value}}}.
  """
  rows = {}
  if root_sift:
    name = methods.ROOT_SIFT
    rows[name] = methods.remembered(
      lambda: pair_results.measure(pairs, name, methods.root_sift, estimation),
      map(pairs.load, pairs.keys()),
      pairs.true,
      pairs.unrelated,
      estimation,
    )
  for label, model in models.items():
    function = methods.local(model)
    rows[label] = pair_results.measure(pairs, label, function, estimation)
  found = {k: pair_results.as_found(v) for k, v in rows.items()}
  groups = list(dict.fromkeys(pair.group for pair in pairs.true))
  groups += ["all"] if len(groups) > 1 else []
  summaries = {
    method: {group: pair_results.summary(each, group) for group in groups}
    for method, each in found.items()
  }
  pair_results.print_table(pairs.name, summaries)
  for method, each in found.items():
    true = each.group != ""
    print(
      f"{method}: {each.called[true].sum()} of {true.sum()} true and"
      f" {each.called[~true].sum()} of {(~true).sum()} unrelated pairs are"
      " called a match"
    )
  return summaries


def validate(args, models, estimation):
  """Measure on held-out photos."""
  training, held_out = held_out_photos.read(args.data)
  pairs = held_out_photos.pairs(training, held_out)
  if args.quick:
    pairs = pairs.quick()
  summaries = measure_pairs(pairs, models, estimation, not args.no_rootsift)
  _compare(summaries, models)
  views = 0 if args.quick else 2
  asked = held_out_queries.make(training, held_out, views)
  rows = {}
  if not args.no_rootsift:
    rows[methods.ROOT_SIFT] = methods.remembered(
      lambda: held_out_queries.root_sift_rows(asked),
      asked.images + asked.collection,
      "ASMK*",
    )
  for label, model in models.items():
    rows[label] = held_out_queries.model_rows(asked, model)
  summaries = {
    label: held_out_queries.summary(asked, each) for label, each in rows.items()
  }
  print(
    f"\nretrieval of {len(asked.images)} queries among"
    f" {len(asked.collection)} photos: global descriptors (RootSIFT: ASMK*)"
  )
  pair_results.print_means(summaries)
  _compare(summaries, models)


def _compare(summaries, models):
  """Print how models differ from RootSIFT and from the first of them."""
  methods = list(summaries)
  first = methods[len(methods) - len(models)]
  for base in dict.fromkeys([methods[0], first]):
    others = {k: v for k, v in summaries.items() if k in models and k != base}
    pair_results.print_differences(others, summaries[base], base)


def evaluate(args, models, estimation):
  """Measure on the evaluation sets, and compares with the requirements."""
  summaries = []
  for read in (photo_pairs.matching, photo_pairs.landmarks):
    pairs = read(args.data)
    if args.quick:
      pairs = pairs.quick()
    summaries.append(
      measure_pairs(pairs, models, estimation, not args.no_rootsift)
    )
  rows = retrieval_quality.baselines(args.data)
  name = oxford_retrieval.ROOT_SIFT
  if not args.no_rootsift and not args.quick:
    rows[name] = oxford_retrieval.measure_root_sift(args.data, estimation)
  found = {
    label: oxford_retrieval.measure_model(args.data, model, args.quick)
    for label, model in models.items()
  }
  print("\nmini_roxford5k: mAP and mean precisions, percent")
  for label, ways in found.items():
    rows |= {f"{label}, {way}": row for way, row in ways.items()}
  retrieval_quality.print_table(rows)
  baselines = {k: v for k, v in rows.items() if k.startswith("RootSIFT")}
  for label, ways in found.items():
    lines = []
    if not args.no_rootsift:
      lines += requirements.of_pairs(
        summaries[0][label], summaries[0][methods.ROOT_SIFT]
      )
    lines += requirements.of_retrieval(ways, baselines, rows["random"])
    requirements.print_lines(label, lines)


def main():
  """Run the benchmark; return its exit status."""
  default = methods.Estimation()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--model",
    action="append",
    help="name, folder, or configuration (.pbtxt); may be given repeatedly",
  )
  parser.add_argument("--data", type=pathlib.Path, default=photo_pairs.DATA)
  parser.add_argument("--estimator", default=default.estimator)
  parser.add_argument("--share", type=float, default=default.share)
  parser.add_argument("--ratio", type=float, default=default.ratio)
  parser.add_argument("--no_rootsift", action="store_true")
  parser.add_argument(
    "--validation", action="store_true", help="held-out photos"
  )
  parser.add_argument("--quick", action="store_true", help="one pair in eight")
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  models = methods.labels(args.model or ["delf-compact"])
  estimation = methods.Estimation(args.estimator, args.share, args.ratio)
  print(f"{estimation}{', one pair in eight' if args.quick else ''}")
  try:
    measure = validate if args.validation else evaluate
    measure(args, models, estimation)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
