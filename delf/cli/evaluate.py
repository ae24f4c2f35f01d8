"""`delf eval`: measures a search with ground truth."""

import dataclasses
import os

from delf.base import errors
from delf.cli import arguments, output, search

EXAMPLES = """\
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


def add_arguments(parser):
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "roxford5k, rparis6k, or a .mat, .pkl, .csv or .json file"
  add("truth", metavar="GROUND_TRUTH", help=help)
  help = (
    "photos of the collection, or their features; of roxford5k and"
    " rparis6k the folder that `delf download` made"
  )
  add("--images", metavar="DIR", help=help)
  help = "index that is there (`delf index`); default: one in --out"
  add("--index", metavar="INDEX", help=help)
  help = "photos of the queries, or their features (default: --images)"
  add("--queries", metavar="DIR", help=help)
  add("--out", required=True, metavar="DIR", help="folder for the results")
  arguments.add_model(parser, "the embedded one")
  arguments.add(parser, "--config")
  codebook = "codebook, for words and fusion"
  add("--codebook", metavar="PREFIX", help=codebook)
  add("--aggregation", metavar="FILE", help=".pbtxt of aggregation")
  whitening = "whitening of global descriptors"
  add("--whitening", metavar="FILE", help=whitening)
  search.add_method_arguments(parser)
  page = "write a page with curves and all results"
  add("--html", metavar="FILE", help=page)
  search.add_work_arguments(parser)


def run(args):
  """Evaluate, print the report card; returns the exit status."""
  from delf.evaluation import evaluate, report_card
  from delf.pictures import results_page
  from delf.search import searching

  if args.html:
    results_page.check_path(args.html)
  truth_path, images = _locate(args)
  found, failed = _collection(args, truth_path, images)
  options = search.search_options(args)
  searcher = searching.Searcher(found, options)
  truth = evaluate.read_truth(truth_path, searcher)
  asked = _queries(args, found, truth, args.queries or images)
  report = evaluate.evaluate(searcher, truth, asked, args.out)
  for failure in report.failed:
    output.error(failure)
  without = None
  if searcher.has_regions and not args.no_regions:
    options = dataclasses.replace(options, only_whole=True)
    without = evaluate.evaluate(
      searching.Searcher(found, options),
      truth,
      asked,
      os.path.join(args.out, "without_regions"),
    )
  if args.html:
    page = evaluate.write_page(report, searcher, args.html, without)
    search.say_problems(page)
  lines = [report_card.text(report.card)]
  if without:
    lines += ["The same without regions:", report_card.text(without.card)]
  lines.append(f"metrics: {os.path.join(args.out, evaluate.METRICS)}")
  output.show(args, report_card.document(report.card), *lines)
  return 1 if failed or report.failed else 0


def _locate(args):
  """Paths of the ground truth and of the images, or None without images."""
  from delf.python.datasets.revisited_op import dataset

  if args.truth not in dataset.IMAGE_FOLDERS:
    return args.truth, args.images
  if not args.images:
    raise errors.InputError(
      f"--images with the folder of {args.truth} (delf download {args.truth})",
      "none",
    )
  for extension in ("pkl", "mat"):
    path = os.path.join(args.images, f"gnd_{args.truth}.{extension}")
    if os.path.exists(path):
      folder = dataset.IMAGE_FOLDERS[args.truth]
      return path, os.path.join(args.images, folder)
  raise FileNotFoundError(f"{path}: expected ground truth, found none")


def _collection(args, truth_path, images):
  """The collection, made if need be, and photos that failed."""
  from delf.evaluation import evaluate
  from delf.extraction import extract
  from delf.search import building, collection

  if args.index:
    return collection.open_folder(args.index), ()
  if not images:
    raise errors.InputError("--images or --index", "neither")
  folder = os.path.join(args.out, "index")
  options = building.BuildOptions(**arguments.pick(args, *arguments.INDEXING))
  if extract.find_features([images]) is None:
    photos, names = evaluate.find_index_photos(truth_path, images)
    report = building.build_photos(photos, names, folder, options, output.error)
  else:
    report = building.build([images], folder, options, output.error)
  return collection.open_folder(folder), report.failed


def _queries(args, found, truth, folder):
  """The queries, in the order of the ground truth."""
  from delf.evaluation import evaluate
  from delf.extraction import extract
  from delf.search import searching

  if not folder:
    raise errors.InputError("--queries", "none")
  if extract.find_features([folder]) is not None:
    return evaluate.find_features(truth, folder)
  photos = evaluate.find_photos(truth, folder)
  asked, extraction = searching.extract_queries(
    found, photos, output.error, args.device
  )
  if extraction.failed:
    raise errors.InputError(
      "photos of all queries that can be read",
      f"{len(extraction.failed)} that cannot",
      folder,
    )
  return asked
