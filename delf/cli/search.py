"""`delf search`: finds the most similar photos of an index."""

import argparse
import os

import delf
from delf.cli import arguments, output

# Those of `refinement.METHODS`, which is not loaded to parse arguments.
REFINEMENTS = ("alpha-qe", "average-qe", "diffusion", "superglobal")

EXAMPLES = """\
examples:
  delf search my.index photo.jpg                    the 20 most similar photos
  delf search my.index photo.jpg --verify           the best ones verified
  delf search my.index queries/ --verify --html page.html     a page to look at
  delf search my.index photo.jpg --box 80,60,400,300    a part of the photo
  delf search my.index photo.jpg --method fusion --top 5 --json

Scores: with --method global the cosine of global descriptors, with words the
similarity of visual words, with fusion both. With --verify the first photos are
matched with the query point by point, and sorted by their inliers. In an index
with regions the best region of a photo counts; its x1,y1,x2,y2 in pixels stand
behind the name, unless it is the whole photo. Features of queries and verified
pairs are kept in the index, so that nothing is done twice, also after an
interrupt.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  add("index", metavar="INDEX", help="folder that `delf index` has made")
  help = "photo, folder, quoted pattern or list; or one folder of feature files"
  add("queries", nargs="+", metavar="PHOTO", help=help)
  arguments.add_number(parser, "--top", "results of a query", 20)
  add_method_arguments(parser)
  help = "search for a part of the photo, in pixels"
  add("--box", type=arguments.box, metavar="X1,Y1,X2,Y2", help=help)
  help = "write a page with the results"
  add("--html", metavar="FILE", help=help)
  add_work_arguments(parser)


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
  """Add options of the search, which `delf eval` has too."""
  add = parser.add_argument
  help = (
    "features to compare (default: global, or words without global descriptors)"
  )
  add("--method", choices=["global", "words", "fusion"], help=help)
  help = "match the first photos with the query point by point"
  add("--verify", "--rerank", action="store_true", help=help)
  add(
    "--verify-top",
    "--rerank-top",
    type=arguments.positive_whole,
    default=100,
    metavar="N",
    help="number of photos to verify (default: 100)",
  )
  help = "average each query with its first N photos (alpha query expansion)"
  add("--expand", type=arguments.whole, default=0, metavar="N", help=help)
  help = "re-rank by the global descriptors of the first photos"
  add("--refine", choices=REFINEMENTS, help=help)
  help = "compare whole photos only, in an index with regions"
  add("--no-regions", dest="regions", action="store_false", help=help)


def add_work_arguments(parser: argparse.ArgumentParser) -> None:
  """Add options of the work: --workers, --device and --json."""
  help = "processes that verify (default: one per core)"
  arguments.add_number(parser, "--workers", help)
  arguments.add(parser, "--device", "--json")


def run(args: argparse.Namespace) -> int:
  """Search, and print the results; return the exit status."""
  with delf.Index.open(args.index, device=args.device) as index:
    result = arguments.call(index.search_files, args, say=output.error)
  for problem in result.problems:
    output.warning(problem)
  if args.json:
    output.print_json(result.document())
  else:
    _print(result)
    if args.html:
      print(f"page: {os.path.abspath(args.html)}")
  return 1 if result.failed else 0


def _print(result):
  for query, hits in result.hits():
    print(f"{query.name}:")
    for rank, hit in enumerate(hits, 1):
      inliers = "" if hit.inliers is None else f"  {hit.inliers} inliers"
      region = ",".join(f"{edge:g}" for edge in hit.box or ())
      region = f"  [{region}]" if region else ""
      print(f"  {rank:3}  {hit.score:.4f}{inliers}  {hit.name}{region}")
