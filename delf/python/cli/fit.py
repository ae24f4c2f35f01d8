"""`delf fit`: PCA, whitening and codebook of a user's own."""

import argparse
import os

from delf.python.cli import arguments, json_output, say

_EXAMPLES = """\
examples:
  delf fit pca photos/ --out my_pca                 for local features
  delf fit pca features/ --out my_pca --dim 40
  delf fit pca features/ --out my_pca --global      for global descriptors
  delf fit whitening photos/ --out my.whitening     a folder an object
  delf fit whitening features/ --pairs pairs.csv --out my.whitening
  delf fit codebook photos/ --out words/codebook --words 1024
  delf fit codebook features/ --out words/codebook --words 65536
  delf fit pca --help                               what it takes, and how much

PHOTOS are extracted first, into OUT_features (--features DIR): a run that is
repeated does not extract them again. A folder of FEATURES is used as it is.
"""

_PCA = """\
examples:
  delf fit pca photos/ --out my_pca
  delf fit pca features/ --out my_pca --dim 40
  delf fit pca features/ --out my_pca --global

OUT is a folder: mean.datum, pca_proj_mat.datum, pca_variances.datum, and
pca_parameters.pbtxt, which goes into a configuration in place of its own
`pca_parameters { ... }`. It must be of features without a PCA.

How much is enough: 100 descriptors for each of their values (10 000 for 100-D,
some 20 photos of local features) keep as much variance of new photos as a
hundred times more do, within 0.3 %; 10 for each lose 2 to 6 % of it.
"""

_WHITENING = """\
examples:
  delf fit whitening photos/ --out my.whitening
  delf fit whitening features/ --pairs pairs.csv --out my.whitening
  delf fit whitening features/ --groups labels.csv --out my.whitening

Two photos of one object are a pair: those in one folder, or those that --groups
(rows: photo,object) or --pairs (rows: photo,photo) says. OUT is a file with the
mean [D, 1] and the projection [D, D], for delf.whiten.read_whitening.

How much is enough: at least one pair for each of the D values of a descriptor,
and many more to gain by it. With descriptors of 128 values a whitening lost 4
points of mAP with 4 pairs for each value and 2 with 8 to 13: measure on photos
that it was not made of before it is used.
"""

_CODEBOOK = """\
examples:
  delf fit codebook photos/ --out words/codebook --words 1024
  delf fit codebook features/ --out words/codebook --words 65536

OUT is the prefix of a TensorFlow checkpoint, as `codebook_path` takes it; with
it comes OUT.json, which says how it was made. A run that was interrupted, even
by kill -9, goes on when it is repeated, and gets the same codebook.

How much is enough: 64 features a word describe new photos within 2 % of 256 a
word (mean squared distance), 16 within 6 %, 4 within 17 %. Photos have 100 to
1000 features each.
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
  for name, summary, epilog, add in (
    ("pca", "principal components of features", _PCA, _add_pca),
    ("whitening", "learned whitening", _WHITENING, _add_whitening),
    ("codebook", "visual words, by k-means", _CODEBOOK, _add_codebook),
  ):
    one = kinds.add_parser(
      name,
      help=summary,
      description=f"{summary[0].upper()}{summary[1:]}.",
      epilog=epilog,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_common(one)
    add(one)


def _add_common(parser):
  parser.add_argument(
    "sources",
    nargs="+",
    metavar="PHOTOS|FEATURES",
    help="folders of feature files; or folders, quoted patterns and lists of "
    "photos",
  )
  parser.add_argument("--out", required=True, metavar="OUT", help="see below")
  parser.add_argument(
    "--features",
    metavar="DIR",
    help="folder for the features of photos (default: OUT_features)",
  )
  arguments.add_model(parser)
  arguments.add_config(parser)
  arguments.add_max_size(parser)
  arguments.add_device(parser)
  arguments.add_json(parser)


def _add_pca(parser):
  parser.add_argument(
    "--global",
    dest="use_global",
    action="store_true",
    help="of global descriptors (default: of local features)",
  )
  parser.add_argument(
    "--dim",
    type=arguments.positive_whole,
    metavar="N",
    help="components that the configuration keeps (default: those with 95 %% "
    "of the variance); the files hold all",
  )
  _add_overwrite(parser)


def _add_whitening(parser):
  pairs = parser.add_mutually_exclusive_group()
  pairs.add_argument(
    "--pairs", metavar="FILE", help="CSV file, two photos of one object a row"
  )
  pairs.add_argument(
    "--groups", metavar="FILE", help="CSV file, a photo and its object a row"
  )
  arguments.add_seed(parser)
  _add_overwrite(parser)


def _add_codebook(parser):
  parser.add_argument(
    "--words",
    type=arguments.positive_whole,
    default=1024,
    metavar="K",
    help="number of words (default: 1024)",
  )
  parser.add_argument(
    "--iterations",
    type=arguments.positive_whole,
    default=50,
    metavar="N",
    help="most iterations of k-means (default: 50)",
  )
  parser.add_argument(
    "--max-features",
    type=arguments.positive_whole,
    metavar="N",
    help="most features, chosen by chance (default: 256 a word)",
  )
  parser.add_argument(
    "--method",
    choices=("auto", "exact", "approximate"),
    default="auto",
    help="how words are found; auto (the default) is exact where an iteration "
    "takes at most a minute or so",
  )
  arguments.add_seed(parser)


def _add_overwrite(parser):
  parser.add_argument(
    "--overwrite", action="store_true", help="replace what is at OUT"
  )


def run(args):
  """Fits, prints what it gave; returns the exit status."""
  from delf.python.cli import fit_kinds

  sources, result = fit_kinds.FIT[args.kind](args)
  failed = [*sources.failed, *result.failed]
  for failure in failed:
    say.error(failure)
  if args.json:
    failures = [{"path": f.path, "reason": f.reason} for f in failed]
    json_output.print_json(
      {"kind": args.kind, "out": os.path.abspath(args.out)}
      | result.facts
      | {"failed": failures, "advice": result.advice}
    )
  else:
    for line in (*result.lines, *filter(None, [result.advice])):
      print(line)
  return 1 if failed else 0
