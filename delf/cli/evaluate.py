"""`delf eval`: measures a search with ground truth."""

import dataclasses
import os

from delf.cli import arguments, output, search

_EXAMPLES = """\
examples:
  delf eval roxford5k --images data/ --out result/          as the papers
  delf eval roxford5k --images data/ --out result/ --rerank --html page.html
  delf eval truth.csv --images photos/ --out result/        your own
  delf eval truth.json --index my.index --queries queries/ --out result/
  delf eval gnd_roxford5k.mat --images features/ --queries query_features/ \\
    --out result/                                           of feature files

GROUND_TRUTH is roxford5k or rparis6k, in the folder that `delf download` has
made; or a file: .mat or .pkl of these; or your own, in CSV, with a header and
one line per labelled image:
  query,image,label
  church.jpg,church_at_night.jpg,positive
with label positive (or easy, hard) or junk, and perhaps x1,y1,x2,y2, the part
of the query's photo; or in JSON:
  {"church.jpg": {"positive": ["church_at_night.jpg"], "junk": []}}
Queries are cropped to their part, as the papers do. Written are metrics.txt,
which the original's tools read, and report.json. What was done is not done
again.
"""

_PUBLISHED = ("roxford5k", "rparis6k")


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "truth",
    metavar="GROUND_TRUTH",
    help="roxford5k, rparis6k, or a .mat, .pkl, .csv or .json file",
  )
  parser.add_argument(
    "--images",
    metavar="DIR",
    help="photos of the collection, or their features; of roxford5k and"
    " rparis6k the folder that `delf download` made",
  )
  parser.add_argument(
    "--index",
    metavar="INDEX",
    help="index that is there (`delf index`); default: one in --out",
  )
  parser.add_argument(
    "--queries",
    metavar="DIR",
    help="photos of the queries, or their features (default: --images)",
  )
  parser.add_argument(
    "--out", required=True, metavar="DIR", help="folder for the results"
  )
  arguments.add_model(parser, "the embedded one")
  arguments.add_config(parser)
  parser.add_argument(
    "--codebook", metavar="PREFIX", help="codebook, for words and fusion"
  )
  parser.add_argument(
    "--aggregation", metavar="FILE", help=".pbtxt of aggregation"
  )
  parser.add_argument(
    "--whitening", metavar="FILE", help="whitening of global descriptors"
  )
  search.add_method_arguments(parser)
  parser.add_argument(
    "--html", metavar="FILE", help="write a page with curves and all results"
  )
  search.add_work_arguments(parser)


def run(args):
  """Evaluates, prints the report card; returns the exit status."""
  from delf.evaluation import evaluate, report_card
  from delf.pictures import results_page
  from delf.search import searching

  if args.html:
    results_page.check_path(args.html)
  found, failed = _collection(args)
  searcher = searching.Searcher(found, search.search_options(args))
  truth = evaluate.read_truth(_truth_path(args), searcher)
  asked = _queries(args, found, truth)
  report = evaluate.evaluate(searcher, truth, asked, args.out)
  for failure in report.failed:
    output.error(failure)
  without = None
  if searcher.has_regions and not args.no_regions:
    without = _without_regions(args, found, truth, asked)
  if args.html:
    page = evaluate.write_page(report, searcher, args.html, without)
    search.say_problems(page)
  if args.json:
    output.print_json(report_card.document(report.card))
  else:
    print(report_card.text(report.card))
    if without:
      print(f"The same without regions:\n{report_card.text(without.card)}")
    print(f"metrics: {os.path.join(args.out, evaluate.METRICS)}")
  return 1 if failed or report.failed else 0


def _without_regions(args, found, truth, asked):
  """Returns the EvaluateReport of whole images alone, in a folder below."""
  from delf.evaluation import evaluate
  from delf.search import searching

  options = dataclasses.replace(search.search_options(args), only_whole=True)
  out = os.path.join(args.out, "without_regions")
  return evaluate.evaluate(
    searching.Searcher(found, options), truth, asked, out
  )


def _truth_path(args):
  """Returns the path of the ground truth."""
  from delf.base import errors

  if args.truth not in _PUBLISHED:
    return args.truth
  if not args.images:
    raise errors.InputError(
      f"--images with the folder of {args.truth} (delf download {args.truth})",
      "none",
    )
  for extension in ("pkl", "mat"):
    path = os.path.join(args.images, f"gnd_{args.truth}.{extension}")
    if os.path.exists(path):
      return path
  raise FileNotFoundError(f"{path}: expected ground truth, found none")


def _images_folder(args):
  from delf.python.datasets.revisited_op import dataset

  if args.truth in _PUBLISHED:
    return os.path.join(args.images, dataset.IMAGE_FOLDERS[args.truth])
  return args.images


def _collection(args):
  """Returns the collection.Collection, made if need be, and what failed."""
  from delf.base import errors
  from delf.extraction import feature_files
  from delf.search import building, collection

  if args.index:
    return collection.open_folder(args.index), ()
  if not args.images:
    raise errors.InputError("--images or --index", "neither")
  path = _truth_path(args)
  folder = os.path.join(args.out, "index")
  options = building.BuildOptions(
    model=args.model,
    config=args.config,
    codebook=args.codebook,
    aggregation=args.aggregation,
    whitening=args.whitening,
    device=args.device,
  )
  source = _images_folder(args)
  if feature_files.find([source]) is None:
    from delf.evaluation import evaluate

    images, names = evaluate.find_index_photos(path, source)
    report = building.build_photos(images, names, folder, options, output.error)
  else:
    report = building.build([source], folder, options, output.error)
  return collection.open_folder(folder), report.failed


def _queries(args, found, truth):
  """Returns the list of queries.Query in the order of the ground truth."""
  from delf.base import errors
  from delf.evaluation import evaluate
  from delf.extraction import feature_files
  from delf.search import queries

  folder = args.queries or (args.images and _images_folder(args))
  if not folder:
    raise errors.InputError("--queries", "none")
  if feature_files.find([folder]) is not None:
    return evaluate.find_features(truth, folder)
  photos = evaluate.find_photos(truth, folder)
  asked, extraction = queries.of_photos(
    found, photos, output.error, args.device
  )
  if extraction.failed:
    raise errors.InputError(
      "photos of all queries that can be read",
      f"{len(extraction.failed)} that cannot",
      folder,
    )
  return asked
