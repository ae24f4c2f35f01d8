"""`delf help`: the help of a command."""

EXAMPLES = """\
examples:
  delf help
  delf help search
"""


def add_arguments(parser):
  """Add the arguments of this command."""
  help = "command to explain (default: all, a line each)"
  parser.add_argument("topic", nargs="?", metavar="COMMAND", help=help)


def run(args):
  """Print the help; return the exit status."""
  from delf.cli import main

  main.make_parser(args.topic).parse_args([args.topic or "--help", "--help"])
