"""What `delf fit` does for each kind, and what it says of the result."""

import dataclasses
import os

from delf.python.pipelines import (
  cluster,
  feature_files,
  fit,
  fit_sources,
  image_pairs,
)

# Descriptors for each of their values, pairs for each, and features a word
# that are enough; measured on photos that are not among them (`delf fit KIND
# --help` has the figures).
_PCA_ENOUGH = 100
_PAIRS_ENOUGH = 10
_FEATURES_ENOUGH = 64

# Features a word over which more are not used by default: faiss's own limit.
_FEATURES_MOST = 256


@dataclasses.dataclass(frozen=True)
class Result:
  """What is printed of a fit.

  Attributes:
    facts: dict for JSON.
    lines: Lines for people.
    advice: One line if there were few samples, else "".
    failed: Failure of each feature file that was left out.
  """

  facts: dict
  lines: list
  advice: str
  failed: tuple


def _pca(args):
  kind = feature_files.GLOBAL if args.use_global else feature_files.LOCAL
  if not args.overwrite:
    fit.refuse_pca(args.out)
  sources = fit_sources.find(args.sources, kind, _extraction(args), raw=True)
  report = fit.fit_pca(sources.paths, args.out, args.dim, args.overwrite)
  size, kept = report.dimension, report.kept
  share = kept[report.pca_dim - 1]
  facts = {
    "dimension": size,
    "descriptors": report.descriptors,
    "variance_kept": kept.tolist(),
    "pca_dim": report.pca_dim,
    "pca_parameters": report.config,
  }
  some = [n for n in (8, 16, 32, 40, 64, 128, 256, 512, 1024) if n < size]
  table = ", ".join(f"{n}: {100 * kept[n - 1]:.1f} %" for n in some)
  lines = [
    f"{args.out}: {size} components from {report.descriptors} descriptors",
    f"variance kept by the first components: {table or '1: 100 %'}",
    f"for a configuration ({report.pca_dim} keep {100 * share:.1f} %):",
    "pca_parameters {",
    *(f"  {line}" for line in report.config.splitlines()),
    "}",
  ]
  advice = _advice(report.descriptors, _PCA_ENOUGH * size, "descriptors")
  return sources, Result(facts, lines, advice, report.failed)


def _whitening(args):
  if not args.overwrite:
    fit.refuse(args.out)
  sources = fit_sources.find(
    args.sources, feature_files.GLOBAL, _extraction(args)
  )
  if args.pairs:
    pairs = image_pairs.from_pairs(args.pairs, sources.names)
  elif args.groups:
    pairs = image_pairs.from_groups(args.groups, sources.names, args.seed)
  else:
    pairs = image_pairs.from_folders(sources.names, args.seed)
  report = fit.fit_whitening(sources.paths, pairs, args.out, args.overwrite)
  facts = {
    "dimension": report.dimension,
    "descriptors": report.descriptors,
    "pairs": report.pairs,
  }
  lines = [
    f"{args.out}: whitening of {report.dimension}-D from {report.pairs} pairs "
    f"of {report.descriptors} descriptors"
  ]
  enough = _PAIRS_ENOUGH * report.dimension
  advice = _advice(report.pairs, enough, "pairs")
  return sources, Result(facts, lines, advice, report.failed)


def _codebook(args):
  cluster.refuse_finished(args.out)
  sources = fit_sources.find(
    args.sources, feature_files.LOCAL, _extraction(args)
  )
  report = cluster.cluster_files(
    sources.paths,
    args.out,
    num_clusters=args.words,
    num_iterations=args.iterations,
    max_features=args.max_features or _FEATURES_MOST * args.words,
    seed=args.seed,
    method=args.method,
  )
  facts = dataclasses.asdict(report)
  facts.pop("failed")
  lines = [f"{args.out}: {report.summary()}"]
  enough = _FEATURES_ENOUGH * args.words
  advice = _advice(report.features, enough, "features")
  return sources, Result(facts, lines, advice, report.failed)


# Kind -> function of the arguments that returns fit_sources.Sources and Result.
FIT = {"pca": _pca, "whitening": _whitening, "codebook": _codebook}


def _extraction(args):
  """Returns how photos are extracted."""
  out = os.path.normpath(args.out)
  return fit_sources.Extraction(
    folder=args.features or f"{out}_features",
    model=args.model,
    config=args.config,
    max_size=args.max_size,
    device=args.device,
  )


def _advice(number, enough, what):
  """Returns a line that says how many are enough, "" if these are."""
  if number >= enough:
    return ""
  return f"advice: {enough} {what} or more are better than {number}"
