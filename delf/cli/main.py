"""The command `delf`: finds the sub-command, runs it, words its errors.

A sub-command is a module with `add_arguments(parser)`, `run(args)`, which
returns an exit status or None for 0, and EXAMPLES, the end of its help. Such a
module imports what is heavy inside `run`.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import delf
from delf.base import errors
from delf.cli import arguments, output

# Name -> (module, one line of help). Only the module of the given command is
# imported, so that help and errors of usage come at once.
COMMANDS = {
  "match": ("delf.cli.match", "match two images: picture and score"),
  "extract": ("delf.cli.extract", "extract features of many images"),
  "detect": ("delf.cli.detect", "find boxes of landmarks in images"),
  "index": ("delf.cli.index", "make a collection to be searched"),
  "search": ("delf.cli.search", "ask a collection with photos"),
  "eval": ("delf.cli.evaluate", "measure a search with ground truth"),
  "fit": ("delf.cli.fit", "fit PCA, whitening or codebook to photos"),
  "train": ("delf.cli.train", "train a model on your own photos"),
  "train-detector": (
    "delf.cli.train_detector",
    "train a detector of landmarks on your own boxes",
  ),
  "export": (
    "delf.cli.export",
    "make a trained model usable, also without TensorFlow",
  ),
  "info": ("delf.cli.info", "say what is in a file or a model"),
  "models": ("delf.cli.models", "list and download models"),
  "download": ("delf.cli.download", "download a published data set"),
  "demo": ("delf.cli.demo", "match two sample photos, with a picture"),
  "doctor": ("delf.cli.doctor", "check that this installation works"),
}

_EXAMPLES = """\
examples:
  delf demo                             two sample photos, matched
  delf match a.jpg b.jpg                your photos, matched
  delf extract photos/ --out features/  features of a folder
  delf COMMAND --help                   what a command takes

exit status: 0 done, 1 not done (one line on standard error says why), 2 not
understood, 130 interrupted
"""

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it.


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line, by default the program's; return the exit status.

  `argparse` raises SystemExit after help (0) and errors of usage (2).
  """
  argv = sys.argv[1:] if argv is None else list(argv)
  command = next((arg for arg in argv if not arg.startswith("-")), None)
  debug = os.environ.get("DELF_DEBUG", "") not in ("", "0")
  try:
    # Importing a command is inside, so that a package it lacks has its line.
    args = make_parser(command).parse_args(argv)
    debug = debug or args.debug
    output.show_warnings()
    output.print_any_name()
    if not debug:
      output.silence_tensorflow()
    status = args.run(args) or 0
    # A pipe that was closed shows here rather than when Python shuts down.
    if sys.stdout is not None:
      sys.stdout.flush()
    return status
  except KeyboardInterrupt:
    return _fail("interrupted", errors.INTERRUPTED, debug)
  except BrokenPipeError:
    # Python flushes standard output once more at its end, which must not fail.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    return _BROKEN_PIPE
  except (errors.InputError, OSError) as error:
    return _fail(errors.one_line(error), 1, debug)
  except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] == "delf":
      return _report_bug()
    missing = f"expected the Python package {error.name}, found none"
    return _fail(f"{missing}; `delf doctor` says what is missing", 1, debug)
  except Exception:  # The last resort of a program: its own faults.
    return _report_bug()


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
  """Return the parser of the command line, complete for one command."""
  parser = argparse.ArgumentParser(
    prog="delf",
    description="Instance-level image recognition: features, matches, models.",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  version = f"delf {delf.__version__}"
  parser.add_argument("--version", action="version", version=version)
  help = "show tracebacks and TensorFlow's messages (or DELF_DEBUG=1)"
  parser.add_argument("--debug", action="store_true", help=help)
  subparsers = parser.add_subparsers(
    dest="command", metavar="COMMAND", required=True
  )
  for name, (module_name, summary) in COMMANDS.items():
    subparser = arguments.add_command(subparsers, name, summary)
    subparser.add_argument(
      "--debug",
      action="store_true",
      default=argparse.SUPPRESS,
      help="show tracebacks and TensorFlow's messages",
    )
    if name == command:
      module = importlib.import_module(module_name)
      subparser.epilog = module.EXAMPLES
      module.add_arguments(subparser)
      subparser.set_defaults(run=module.run)
  return parser


def _fail(message, status, debug):
  if debug:
    traceback.print_exc()
  output.error(message)
  return status


def _report_bug():
  traceback.print_exc()
  output.error(
    "this is a fault in delf itself; please report it with the lines above and"
    " the output of `delf doctor`"
  )
  return 1
