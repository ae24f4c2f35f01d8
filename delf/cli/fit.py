"""`delf fit`: PCA, whitening and codebook of a user's own."""

import dataclasses
import functools
import os

from delf.cli import arguments, output

# Numbers of samples that are enough (`delf fit KIND --help` has the figures).
_DESCRIPTORS_A_VALUE = 100
_PAIRS_A_VALUE = 10
_FEATURES_A_WORD = 64
# More features are not used by default: faiss's own limit.
_MAX_FEATURES_A_WORD = 256

EXAMPLES = """\
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


def run(args):
  """Fit, print the result; returns the exit status."""
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
  from delf.aggregation import clustering, fit

  kind = clustering.GLOBAL if args.use_global else clustering.LOCAL
  if not args.overwrite:
    fit.refuse_pca(args.out)
  sources = fit.find(args.sources, kind, **_extraction(args), raw=True)
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
  enough = _DESCRIPTORS_A_VALUE * size
  advice = _advice(report.descriptors, enough, "descriptors")
  return facts, lines, advice, [*sources.failed, *report.failed]


def _add_whitening(parser):
  pairs = parser.add_mutually_exclusive_group()
  help = "CSV file, two photos of one object a row"
  pairs.add_argument("--pairs", metavar="FILE", help=help)
  help = "CSV file, a photo and its object a row"
  pairs.add_argument("--groups", metavar="FILE", help=help)
  arguments.add(parser, "--seed")
  _add_overwrite(parser)


def _fit_whitening(args):
  from delf.aggregation import clustering, fit

  if not args.overwrite:
    fit.refuse(args.out)
  sources = fit.find(args.sources, clustering.GLOBAL, **_extraction(args))
  if args.pairs:
    pairs = fit.from_pairs(args.pairs, sources.names)
  elif args.groups:
    pairs = fit.from_groups(args.groups, sources.names, args.seed)
  else:
    pairs = fit.from_folders(sources.names, args.seed)
  report = fit.fit_whitening(sources.paths, pairs, args.out, args.overwrite)
  names = "dimension", "descriptors", "pairs"
  facts = {name: getattr(report, name) for name in names}
  lines = [
    f"{args.out}: whitening of {report.dimension}-D from {report.pairs} pairs "
    f"of {report.descriptors} descriptors"
  ]
  enough = _PAIRS_A_VALUE * report.dimension
  advice = _advice(report.pairs, enough, "pairs")
  return facts, lines, advice, [*sources.failed, *report.failed]


def _add_codebook(parser):
  add_number = functools.partial(arguments.add_number, parser)
  add_number("--words", "number of words", 1024, "K")
  add_number("--iterations", "most iterations of k-means", 50)
  help = "most features, chosen by chance (default: 256 a word)"
  add_number("--max-features", help)
  parser.add_argument(
    "--method",
    choices=("auto", "exact", "approximate"),
    default="auto",
    help="how words are found; auto (the default) is exact where an iteration "
    "takes at most a minute or so",
  )
  arguments.add(parser, "--seed")


def _fit_codebook(args):
  from delf.aggregation import clustering, fit

  clustering.refuse_finished(args.out)
  sources = fit.find(args.sources, clustering.LOCAL, **_extraction(args))
  report = clustering.cluster_files(
    sources.paths,
    args.out,
    num_clusters=args.words,
    num_iterations=args.iterations,
    max_features=args.max_features or _MAX_FEATURES_A_WORD * args.words,
    seed=args.seed,
    method=args.method,
  )
  facts = dataclasses.asdict(report)
  facts.pop("failed")
  lines = [f"{args.out}: {report.summary()}"]
  enough = _FEATURES_A_WORD * args.words
  advice = _advice(report.features, enough, "features")
  return facts, lines, advice, [*sources.failed, *report.failed]


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
    "--overwrite", action="store_true", help="replace what is at OUT"
  )


def _extraction(args):
  names = "model", "config", "max_size", "device"
  folder = args.features or f"{os.path.normpath(args.out)}_features"
  return {"folder": folder} | arguments.pick(args, *names)


def _advice(number, enough, noun):
  if number >= enough:
    return ""
  return f"advice: {enough} {noun} or more are better than {number}"
