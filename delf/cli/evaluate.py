"""`delf eval`: measures a search with ground truth."""

import argparse
import os

import delf
from delf.cli import arguments, output, search

EXAMPLES = """\
examples:
  delf eval roxford5k --images data/ --out result/          as in the papers
  delf eval roxford5k --images data/ --out result/ --verify --html page.html
  delf eval truth.csv --images photos/ --out result/        your own
  delf eval truth.json --index my.index --queries queries/ --out result/
  delf eval gnd_roxford5k.mat --images features/ --queries query_features/ \\
    --out result/                                           of feature files

GROUND_TRUTH is roxford5k or rparis6k, in the folder that `delf download` made;
or a file: .mat or .pkl of these data sets; or your own, in CSV, with a header
and a line for each labelled photo:
  query,image,label
  church.jpg,church_at_night.jpg,positive
with label positive (or easy, hard) or junk, and optionally x1,y1,x2,y2, the
part of the query photo; or in JSON:
  {"church.jpg": {"positive": ["church_at_night.jpg"], "junk": []}}
Queries are cropped to their part, as in the papers. The output is metrics.txt,
which the original's tools read, and report.json. An interrupted run resumes
when it is repeated.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "roxford5k, rparis6k, or a .mat, .pkl, .csv or .json file"
  add("truth", metavar="GROUND_TRUTH", help=help)
  help = (
    "photos to search, or their features; for roxford5k and rparis6k the "
    "folder that `delf download` made"
  )
  add("--images", metavar="DIR", help=help)
  help = "existing index (default: a new one in --out)"
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


def run(args: argparse.Namespace) -> int:
  """Evaluate, and print the report card; return the exit status."""
  from delf.evaluation import evaluate, report_card

  report = arguments.call(delf.evaluate, args, say=output.error)
  for problem in report.problems:
    output.warning(problem)
  lines = [report_card.text(report.card)]
  if report.without_regions:
    lines += ["The same without regions:"]
    lines += [report_card.text(report.without_regions.card)]
  lines.append(f"metrics: {os.path.join(args.out, evaluate.METRICS)}")
  output.show(args, report_card.document(report.card), *lines)
  return 1 if report.failed else 0
