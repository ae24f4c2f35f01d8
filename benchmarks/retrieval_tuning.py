"""Effect of expansion, fusion and refinement of rankings, on training photos.

`python -m benchmarks.retrieval_tuning` extracts features of the training photos
with the embedded model (about four minutes; `--features FOLDER` keeps them),
and prints the mean average precision of each method and of nearby settings.

One photo of each group (photos of one place) is a query; the other photos, also
those without a group, are the collection. This is repeated with other queries.
The model was trained on nine of ten groups; "held out" is the remaining tenth.
"""

import argparse
import pathlib
import sys
import tempfile

import numpy as np

from benchmarks.shared import photo_pairs, retrieval_folds
from delf.base import errors
from delf.evaluation import ground_truth
from delf.evaluation import metrics as evaluation_metrics
from delf.indexes import dense, ranking, refinement


def show(name, folds, function):
  """Print the mean average precisions of a function of a fold."""
  precisions, held_out, big = [], [], []
  for fold in folds:
    found = evaluation_metrics.evaluate(
      function(fold).ids, fold.truth, ranks=(1,)
    )
    metrics = found.protocols[ground_truth.PLAIN_PROTOCOL]
    precisions.append(metrics.average_precisions)
    held_out.append(fold.held_out)
    big.append(fold.big)
  precisions = 100 * np.concatenate(precisions)
  subsets = map(np.concatenate, (held_out, big))
  columns = [precisions.mean(), *(precisions[s].mean() for s in subsets)]
  words = "".join(f"{column:10.2f}" for column in columns)
  print(f"{name:44}{words}", flush=True)


def _refined(method):
  return lambda fold: method(fold.queries, fold.found, fold.descriptors)


def _augmented(options, then=None):
  def function(fold):
    other = refinement.augment(fold.descriptors, options)
    number = fold.found.ids.shape[1]
    found = dense.search(fold.queries, [other], number)
    return then(fold.queries, found, other) if then else found

  return function


def _fused(weight, method, first=None):
  def function(fold):
    found = first(fold) if first else fold.found
    pair = [fold.words, found]
    return ranking.fuse(pair, [1 - weight, weight], method=method)

  return function


def ways(quick):
  """Return dict of name -> function of a fold to a ranking."""
  expansion = refinement.Expansion
  found = {"global": lambda fold: fold.found, "asmk*": lambda fold: fold.words}
  for name, make in refinement.METHODS.items():
    found[f"{name}, default"] = _refined(make())
  found["augmented, default"] = _augmented(None)
  for name, make in refinement.METHODS.items():
    found[f"augmented, then {name}"] = _augmented(None, make())
  for method in ranking.METHODS:
    for weight in (0.5,) if quick else (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
      found[f"asmk* and {weight} global, {method}"] = _fused(weight, method)
  diffused = _refined(refinement.Diffusion())
  found["asmk* and 0.5 diffused"] = _fused(0.5, ranking.CONVEX, diffused)
  found["asmk* and 0.5 diffused, ranks"] = _fused(0.5, ranking.RANKS, diffused)
  if quick:
    return found
  for number in (1, 2, 3, 5, 10, 20):
    for alpha in (0.0, 1.0, 3.0, 5.0):
      words_ = f"n {number}, alpha {alpha:g}"
      found[f"expanded, {words_}"] = _refined(expansion(number, alpha))
      options = refinement.Expansion(number, alpha)
      found[f"augmented, {words_}"] = _augmented(options)
  for number, least in ((9, 0.0), (9, 0.8), (9, 0.9), (2, 0.0), (4, 0.9)):
    found[f"superglobal, K {number}, least {least}"] = _refined(
      refinement.SuperGlobal(neighbours=number, least=least)
    )
  for settings in ((50, 10, 3, 0.99), (50, 10, 3, 0.9), (20, 10, 6, 0.9)):
    found[f"diffusion, k, kq, gamma, alpha: {settings}"] = _refined(
      refinement.Diffusion(400, *settings)
    )
  return found


def main():
  """Print the table; return its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--data", type=pathlib.Path, default=photo_pairs.DATA)
  parser.add_argument(
    "--features", type=pathlib.Path, help="folder to keep features in"
  )
  parser.add_argument("--quick", action="store_true", help="one draw")
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  try:
    with tempfile.TemporaryDirectory() as temporary:
      folder = args.features or pathlib.Path(temporary)
      photos = retrieval_folds.read_photos(args.data)
      descriptors = retrieval_folds.extract(photos, folder).astype(np.float32)
      scores = retrieval_folds.match_words(photos, folder)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  draws = 1 if args.quick else 4
  folds = [
    retrieval_folds.make_fold(photos, descriptors, scores, seed)
    for seed in range(draws)
  ]
  print(f"{draws} draws of {len(folds[0].queries)} queries; collection of")
  print(f"{len(folds[0].descriptors)}; mean average precision, %")
  print(f"{'':44}{'all':>10}{'held out':>10}{'big':>10}")
  for name, function in ways(args.quick).items():
    show(name, folds, function)
  return 0


if __name__ == "__main__":
  sys.exit(main())
