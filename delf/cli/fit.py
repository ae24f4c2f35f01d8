"""`delf fit`: PCA, whitening and codebook of your own photos."""

import argparse
import dataclasses
import functools
import os

import delf
from delf.cli import arguments, output

# Numbers of samples that are enough (`delf fit KIND --help` has the figures).
_DESCRIPTORS_A_VALUE = 100
_PAIRS_A_VALUE = 10
_FEATURES_A_WORD = 64

EXAMPLES = """\
examples:
  delf fit pca photos/ --out my_pca                 for local features
  delf fit pca features/ --out my_pca --dim 40
  delf fit pca features/ --out my_pca --global      for global descriptors
  delf fit whitening photos/ --out my.whitening     a folder an object
  delf fit whitening features/ --pairs pairs.csv --out my.whitening
  delf fit codebook photos/ --out words/codebook --words 1024
  delf fit codebook features/ --out words/codebook --words 65536
  delf fit pca --help                               more on one of them

PHOTOS are extracted first, into OUT_features (--features DIR), and not again
when the run is repeated. A folder of FEATURES is used as it is.
"""

RESUMES = True

_PCA = """\
examples:
  delf fit pca photos/ --out my_pca
  delf fit pca features/ --out my_pca --dim 40
  delf fit pca features/ --out my_pca --global

OUT is a folder: mean.datum, pca_proj_mat.datum, pca_variances.datum, and
pca_parameters.pbtxt, which replaces `pca_parameters { ... }` of a
configuration. The features must be without a PCA.

How much is enough: with 100 descriptors for each of their values (10 000 for
100-D, some 20 photos of local features) the variance kept of new photos is
within 0.3 % of that with a hundred times more; with 10 for each it is 2 to 6 %
lower.
"""

_WHITENING = """\
examples:
  delf fit whitening photos/ --out my.whitening
  delf fit whitening features/ --pairs pairs.csv --out my.whitening
  delf fit whitening features/ --groups labels.csv --out my.whitening

Two photos of one object are a pair: photos in one folder, or those that
--groups (rows: photo,object) or --pairs (rows: photo,photo) names. OUT is a
file with the mean [D, 1] and the projection [D, D], for
delf.whiten.read_whitening.

How much is enough: at least one pair for each of the D values of a descriptor,
and many more to gain by it. With descriptors of 128 values a whitening lost 4
points of mAP with 4 pairs for each value, and 2 with 8 to 13: measure it on
other photos before use.
"""

_CODEBOOK = """\
examples:
  delf fit codebook photos/ --out words/codebook --words 1024
  delf fit codebook features/ --out words/codebook --words 65536

OUT is the prefix of a TensorFlow checkpoint, as `codebook_path` takes it;
OUT.json has its settings and figures. A run that was interrupted, even by kill
-9, resumes when it is repeated, and gives the same codebook.

How much is enough: with 64 features a word the mean squared distance of new
photos is within 2 % of that with 256 a word, with 16 within 6 %, with 4 within
17 %. A photo has 100 to 1000 features.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
  for name, (summary, examples, add_more, fit) in _KINDS.items():
    kind = arguments.add_command(kinds, name, summary, examples)
    kind.set_defaults(fit=fit)
    add = kind.add_argument
    help = (
      "folders of feature files; or folders, quoted patterns and lists of "
      "photos"
    )
    add("sources", nargs="+", metavar="PHOTOS|FEATURES", help=help)
    add("--out", required=True, metavar="OUT", help="see below")
    help = "folder for the features of photos (default: OUT_features)"
    add("--features", metavar="DIR", help=help)
    arguments.add_model(kind)
    arguments.add(kind, "--config", "--max-size", "--device", "--json")
    add_more(kind)


def run(args: argparse.Namespace) -> int:
  """Fit, and print the result; return the exit status."""
  facts, lines, advice, failed = args.fit(args)
  for failure in failed:
    output.error(failure)
  failures = [{"path": f.path, "reason": f.reason} for f in failed]
  document = {"kind": args.kind, "out": os.path.abspath(args.out)}
  document |= facts | {"failed": failures, "advice": advice}
  output.show(args, document, *lines, *filter(None, [advice]))
  return 1 if failed else 0


def _add_pca(parser):
  help = "of global descriptors (default: of local features)"
  add = parser.add_argument
  add("--global", dest="use_global", action="store_true", help=help)
  help = (
    "components that the configuration keeps (default: those with 95 %% of the "
    "variance); the files hold all"
  )
  arguments.add_number(parser, "--dim", help)
  _add_overwrite(parser)


def _fit_pca(args):
  report = arguments.call(delf.fit_pca, args)
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
  enough = _DESCRIPTORS_A_VALUE * size
  advice = _advice(report.descriptors, enough, "descriptors")
  return facts, lines, advice, report.failed


def _add_whitening(parser):
  pairs = parser.add_mutually_exclusive_group()
  help = "CSV file, two photos of one object a row"
  pairs.add_argument("--pairs", metavar="FILE", help=help)
  help = "CSV file, a photo and its object a row"
  pairs.add_argument("--groups", metavar="FILE", help=help)
  arguments.add(parser, "--seed")
  _add_overwrite(parser)


def _fit_whitening(args):
  report = arguments.call(delf.fit_whitening, args)
  names = "dimension", "descriptors", "pairs"
  facts = {name: getattr(report, name) for name in names}
  lines = [
    f"{args.out}: whitening of {report.dimension}-D from {report.pairs} pairs "
    f"of {report.descriptors} descriptors"
  ]
  enough = _PAIRS_A_VALUE * report.dimension
  advice = _advice(report.pairs, enough, "pairs")
  return facts, lines, advice, report.failed


def _add_codebook(parser):
  add_number = functools.partial(arguments.add_number, parser)
  add_number("--words", "number of words", 1024, "K")
  add_number("--iterations", "most iterations of k-means", 50)
  help = "most features, a random choice (default: 256 a word)"
  add_number("--max-features", help)
  parser.add_argument(
    "--method",
    choices=("auto", "exact", "approximate"),
    default="auto",
    help="search for the nearest word; auto (the default) is exact where an "
    "iteration takes at most a minute or so",
  )
  arguments.add(parser, "--seed")


def _fit_codebook(args):
  report = arguments.call(delf.fit_codebook, args)
  facts = dataclasses.asdict(report)
  facts.pop("failed")
  lines = [f"{args.out}: {report.summary()}"]
  enough = _FEATURES_A_WORD * args.words
  advice = _advice(report.features, enough, "features")
  return facts, lines, advice, report.failed


# Name -> summary, help, function that adds arguments, function that fits: it
# returns facts for JSON, or else lines, advice, and failures.
_KINDS = {
  "pca": ("principal components of features", _PCA, _add_pca, _fit_pca),
  "whitening": (
    "learned whitening",
    _WHITENING,
    _add_whitening,
    _fit_whitening,
  ),
  "codebook": (
    "visual words, by k-means",
    _CODEBOOK,
    _add_codebook,
    _fit_codebook,
  ),
}


def _add_overwrite(parser):
  parser.add_argument(
    "--overwrite", action="store_true", help="replace files at OUT"
  )


def _advice(number, enough, noun):
  if number >= enough:
    return ""
  return f"advice: {enough} {noun} or more are better than {number}"
