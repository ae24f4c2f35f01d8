"""`delf extract`: features of many images."""

import os

from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf extract photos/ --out features/            every image under a folder
  delf extract 'photos/*.jpg' --out features/     those of a pattern
  delf extract list.txt --out features/           those that a list names
  delf extract photos/ --out features/ --model r50delg_gldv2clean
  delf extract photos/ --out features/ --local-only --max-size 640 --json

Images of a folder keep their sub-folder in the output folder; others go by base
name. Where two names are equal, more of the path, and then the extension, is in
them.
A run that was interrupted goes on where it was when it is repeated. Images that
fail are named at the end, and the exit status is then 1.
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  arguments.add_images(parser, "FOLDER|GLOB|LIST")
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
    parser, "--max-features", "most local features per image"
  )
  arguments.add_work(parser)


def run(args):
  """Extract, print a summary; returns the exit status."""
  from delf.extraction import engine, extract

  images, names = engine.find(args.images)
  report = extract.extract_to_files(
    images,
    _config(args),
    args.out,
    say=output.error,
    names=names,
    **arguments.work(args),
  )
  out = {"out": os.path.abspath(args.out)}
  return output.print_report(args, report, out)


def _config(args):
  from delf.formats import configs
  from delf.inference import zoo

  config = zoo.choose(args.model, args.config)
  if args.local_only or args.global_only:
    config.use_local_features = args.local_only
    config.use_global_features = args.global_only
  if args.max_size:
    config.max_image_size = args.max_size
  if args.max_features:
    config.delf_local_config.max_feature_num = args.max_features
  configs.check_delf_config(config, args.config)
  return config
