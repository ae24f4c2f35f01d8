"""`delf index`: makes a collection that can be searched, or changes it."""

import os

from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf index photos/ --out my.index              every image under a folder
  delf index more/ --out my.index                adds those to it
  delf index photos/ --out my.index --codebook codebook   visual words as well
  delf index features/ --out my.index --photos photos/    of `delf extract`
  delf index photos/ --out my.index --regions    finds what is small in a photo
  delf index --out my.index --remove old/cat     takes an image out
  delf index --out my.index --merge other.index  takes in another index

The index is a folder: features, one file per index, and what it was made with.
A run that was interrupted goes on where it was when it is repeated. Images that
fail are named, the others are indexed, and the exit status is then 1.
`delf search my.index photo.jpg` asks it.
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "folder, quoted pattern, list or image; or a folder of feature files"
  add("sources", nargs="*", metavar="PHOTOS|FEATURES", help=help)
  add("--out", required=True, metavar="INDEX", help="folder of the index")
  default = (
    "that of --config, of the index that is there, else the embedded one"
  )
  arguments.add_model(parser, default)
  arguments.add(parser, "--config")
  help = (
    "codebook (`delf fit codebook`): local features are indexed as "
    "visual words too"
  )
  add("--codebook", metavar="PREFIX", help=help)
  help = ".pbtxt of aggregation; default: ASMK*, as the original's"
  add("--aggregation", metavar="FILE", help=help)
  help = "whitening of global descriptors (`delf fit whitening`)"
  add("--whitening", metavar="FILE", help=help)
  help = "with FEATURES: the photos that they are of, for pictures"
  add("--photos", metavar="DIR", help=help)
  _add_regions(parser)
  arguments.add(parser, "--max-size")
  help = "take images out of the index, until their photos are indexed again"
  add("--remove", nargs="+", default=[], metavar="NAME", help=help)
  add("--merge", metavar="INDEX", help="take in all images of another index")
  help = "threads that decode (default: 1)"
  add("--workers", type=arguments.whole, default=1, metavar="N", help=help)
  arguments.add(parser, "--rotate", "--device", "--json")


def _add_regions(parser):
  add = parser.add_argument
  help = (
    "index the boxes that a detector finds in each photo, beside the "
    "whole; an image is as similar as its best region"
  )
  add("--regions", action="store_true", help=help)
  help = "with --regions: detector (default: delf-boxes)"
  add("--detector", metavar="NAME|PATH", default="delf-boxes", help=help)
  help = "with --regions: least score of a box (default: 0.1)"
  add("--detector-threshold", type=float, default=0.1, metavar="X", help=help)
  help = "with --regions: most boxes of a photo, the best"
  arguments.add_number(parser, "--max-regions", help, 5)


def run(args):
  """Index and print a summary; return the exit status."""
  from delf.search import building

  if not (args.sources or args.remove or args.merge):
    raise errors.InputError("PHOTOS, FEATURES, --remove or --merge", "none")
  if args.remove:
    print(f"{args.out}: {building.remove(args.out, args.remove)} images")
  if args.merge:
    print(f"{args.out}: {building.merge(args.out, args.merge)} images")
  if not args.sources:
    return 0
  report = building.build(args.sources, args.out, _options(args), output.error)
  out = {"index": os.path.abspath(args.out)}
  return output.print_report(args, report, out)


def _options(args):
  from delf.search import building, collection

  regions = None
  if args.regions:
    regions = collection.RegionSettings(
      args.detector, args.detector_threshold, args.max_regions
    )
  return building.BuildOptions(
    **arguments.pick(
      args, *arguments.INDEXING, "photos", "max_size", "workers"
    ),
    regions=regions,
    apply_rotation=args.rotate,
    one_core_each=True,
  )
