"""`delf index`: makes an index of photos, or changes it."""

import argparse
import os

import delf
from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf index photos/ --out my.index              all photos of a folder
  delf index more/ --out my.index                adds more
  delf index photos/ --out my.index --codebook codebook   visual words as well
  delf index features/ --out my.index --photos photos/    of `delf extract`
  delf index photos/ --out my.index --regions    for things small in a photo
  delf index --out my.index --remove old/cat     takes an image out
  delf index --out my.index --merge other.index  takes in another index

The index is a folder: features, index files, and its settings. An interrupted
run resumes when it is repeated. Photos that fail are listed, the others are
indexed, and the exit status is then 1. `delf search my.index photo.jpg`
searches it.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  add = parser.add_argument
  help = "folder, quoted pattern, list or photo; or a folder of feature files"
  add("sources", nargs="*", metavar="PHOTOS|FEATURES", help=help)
  add("--out", required=True, metavar="INDEX", help="folder of the index")
  default = "the one of --config, of an existing index, else the embedded one"
  arguments.add_model(parser, default)
  arguments.add(parser, "--config")
  help = (
    "codebook (`delf fit codebook`): local features are indexed as "
    "visual words too"
  )
  add("--codebook", metavar="PREFIX", help=help)
  help = ".pbtxt of aggregation (default: ASMK*, as the original's)"
  add("--aggregation", metavar="FILE", help=help)
  help = "whitening of global descriptors (`delf fit whitening`)"
  add("--whitening", metavar="FILE", help=help)
  help = "with FEATURES: folder of their photos, for pictures"
  add("--photos", metavar="DIR", help=help)
  _add_regions(parser)
  arguments.add(parser, "--max-size")
  help = "take images out of the index"
  add("--remove", nargs="+", default=[], metavar="NAME", help=help)
  add("--merge", metavar="INDEX", help="take in all images of another index")
  help = "threads that decode (default: 1)"
  add("--workers", type=arguments.whole, default=1, metavar="N", help=help)
  arguments.add(parser, "--rotate", "--device", "--json")


def _add_regions(parser):
  add = parser.add_argument
  help = (
    "index the boxes that a detector finds in each photo, beside the whole "
    "photo; its best region counts"
  )
  add("--regions", action="store_true", help=help)
  help = "with --regions: detector (default: delf-boxes)"
  add("--detector", metavar="NAME|PATH", default="delf-boxes", help=help)
  help = "with --regions: least score of a box (default: 0.1)"
  add("--detector-threshold", type=float, default=0.1, metavar="X", help=help)
  help = "with --regions: most boxes of a photo, the best"
  arguments.add_number(parser, "--max-regions", help, 5)


def run(args: argparse.Namespace) -> int:
  """Index, and print a summary; return the exit status."""
  if not (args.sources or args.remove or args.merge):
    raise errors.InputError("nothing to do: name PHOTOS, --remove or --merge")
  for act in ("remove", "merge"):
    if value := getattr(args, act):
      number = getattr(delf.Index.open(args.out), act)(value)
      print(f"{args.out}: {number} images")
  if not args.sources:
    return 0
  index = arguments.call(delf.Index.build, args, say=output.error)
  out = {"index": os.path.abspath(args.out)}
  return output.print_report(args, index.report, out)
