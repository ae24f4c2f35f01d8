"""`delf extract`: features of many photos."""

import argparse
import os

import delf
from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf extract photos/ --out features/            all photos of a folder
  delf extract 'photos/*.jpg' --out features/     of a pattern
  delf extract list.txt --out features/           of a list of paths
  delf extract photos/ --out features/ --model r50delg_gldv2clean
  delf extract photos/ --out features/ --local-only --max-size 640 --json

Photos of a folder keep their sub-folder in the output folder, others have their
base name. Equal names are made longer by more of the path, then by the
extension.
An interrupted run resumes when it is repeated. Photos that fail are listed at
the end, and the exit status is then 1.
"""

RESUMES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  arguments.add_photos(parser)
  add = parser.add_argument
  add("--out", required=True, metavar="DIR", help="folder for the features")
  arguments.add_model(parser)
  arguments.add(parser, "--config")
  heads = parser.add_mutually_exclusive_group()
  for name, lacks in (
    ("--local-only", "global descriptors"),
    ("--global-only", "local features"),
  ):
    heads.add_argument(name, action="store_true", help=f"no {lacks}")
  arguments.add(parser, "--max-size")
  arguments.add_number(
    parser, "--max-features", "most local features of a photo"
  )
  arguments.add_work(parser)


def run(args: argparse.Namespace) -> int:
  """Extract, and print a summary; return the exit status."""
  try:
    report = arguments.call(delf.extract, args, say=output.error)
  except errors.Interrupted as interrupted:
    report = interrupted.report
  out = {"out": os.path.abspath(args.out)}
  return output.print_report(args, report, out)
