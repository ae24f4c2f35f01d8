"""`delf search`: asks a collection with photos."""

import os

from delf.cli import arguments, output

# Those of `refinement.METHODS`, which is not loaded to parse arguments.
REFINEMENTS = ("alpha-qe", "average-qe", "diffusion", "superglobal")

EXAMPLES = """\
examples:
  delf search my.index photo.jpg                    the 20 most similar images
  delf search my.index photo.jpg --rerank           the best, matched to be sure
  delf search my.index queries/ --rerank --html page.html     to look at
  delf search my.index photo.jpg --box 80,60,400,300    a part of the photo
  delf search my.index photo.jpg --method fusion --top 5 --json

Scores: with --method global the cosine of global descriptors, with words the
similarity of visual words, with fusion both. With --rerank the first images are
matched point by point, and come by the number of inliers. Of an index with
regions each image is as similar as its best region, whose x1,y1,x2,y2 in
pixels stand behind its name, but for the whole image. What was extracted and
matched is kept in the index: asking again, or going on after an interrupt,
does not do it twice.
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  add = parser.add_argument
  add("index", metavar="INDEX", help="folder that `delf index` has made")
  help = "image, folder, quoted pattern or list; or one folder of feature files"
  add("queries", nargs="+", metavar="PHOTO", help=help)
  arguments.add_number(parser, "--top", "results per query", 20)
  add_method_arguments(parser)
  help = "ask with this part of the only photo, in pixels"
  add("--box", type=arguments.box, metavar="X1,Y1,X2,Y2", help=help)
  help = "write a page with the results, to look at"
  add("--html", metavar="FILE", help=help)
  add_work_arguments(parser)


def add_method_arguments(parser):
  """Add how to search, as `delf eval` has it too."""
  add = parser.add_argument
  help = (
    "what is compared (default: global, or words where there is no "
    "global descriptor)"
  )
  add("--method", choices=["global", "words", "fusion"], help=help)
  help = "match the first images point by point"
  add("--rerank", action="store_true", help=help)
  arguments.add_number(parser, "--rerank-top", "how many are matched", 100)
  help = "average each query with its first N images (alpha query expansion)"
  add("--expand", type=arguments.whole, default=0, metavar="N", help=help)
  help = "re-rank by the global descriptors of the first images"
  add("--refine", choices=REFINEMENTS, help=help)
  help = "compare whole images alone, of an index that has regions"
  add("--no-regions", action="store_true", help=help)


def add_work_arguments(parser):
  """Add how the work is done."""
  help = "processes that match (default: one per core)"
  arguments.add_number(parser, "--workers", help)
  arguments.add(parser, "--device", "--json")


def search_options(args):
  """Return searching.SearchOptions of the arguments."""
  from delf.search import searching

  return searching.SearchOptions(
    **arguments.pick(args, "method", "expand", "refine", "workers"),
    rerank=args.rerank_top if args.rerank else 0,
    only_whole=args.no_regions,
  )


def run(args):
  """Search and print the results; return the exit status."""
  from delf.pictures import results_page
  from delf.search import collection, searching

  if args.html:
    results_page.check_path(args.html)
  found = collection.open_folder(args.index)
  searcher = searching.Searcher(found, search_options(args))
  asked, failed = _queries(found, args)
  result = searcher.search(asked, args.top)
  for failure in result.failed:
    output.error(failure)
  if args.html:
    say_problems(searching.write_page(args.html, found, result))
  if args.json:
    output.print_json(result.document())
  else:
    _print(result)
    if args.html:
      print(f"page: {os.path.abspath(args.html)}")
  return 1 if failed or result.failed else 0


def _queries(found, args):
  """The queries, and those photos of which there are no features."""
  from delf.extraction import extract
  from delf.search import searching

  if extract.find_features(args.queries) is not None:
    return searching.find_features(args.queries[0]), ()
  photos = searching.find_photos(args.queries, args.box)
  asked, extraction = searching.extract_queries(
    found, photos, output.error, args.device
  )
  return asked, extraction.failed


def _print(result):
  for query, hits in result.hits():
    print(f"{query.name}:")
    for rank, hit in enumerate(hits, 1):
      inliers = "" if hit.inliers is None else f"  {hit.inliers} inliers"
      region = ",".join(f"{edge:g}" for edge in hit.box or ())
      region = f"  [{region}]" if region else ""
      print(f"  {rank:3}  {hit.score:.4f}{inliers}  {hit.name}{region}")


def say_problems(report):
  """Say which photos a page lacks."""
  for problem in report.problems:
    output.warning(problem)
