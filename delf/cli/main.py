"""The command `delf`: parses the command line, runs a sub-command, and reports.

A sub-command is a module with `add_arguments(parser)`, `run(args)`, which
returns an exit status or None for 0, EXAMPLES, the end of its help, and
perhaps RESUMES, whether an interrupted run resumes when it is repeated. Modules
import heavy packages inside `run`.
"""

import argparse
import importlib
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence

import delf
from delf.base import errors
from delf.cli import arguments, output
from delf.cli.arguments import Parser

# Name -> (module, one line of help). Only the module of the given command is
# imported, so that help and errors of usage come at once.
COMMANDS = {
  "match": ("delf.cli.match", "match two images: picture and score"),
  "extract": ("delf.cli.extract", "extract features of many images"),
  "detect": ("delf.cli.detect", "find boxes of landmarks in images"),
  "index": ("delf.cli.index", "make an index of photos that can be searched"),
  "search": ("delf.cli.search", "find the most similar photos of an index"),
  "eval": ("delf.cli.evaluate", "measure a search with ground truth"),
  "fit": ("delf.cli.fit", "fit PCA, whitening or codebook to photos"),
  "train": ("delf.cli.train", "train a model on your own photos"),
  "train-detector": (
    "delf.cli.train_detector",
    "train a detector of landmarks on your own boxes",
  ),
  "export": (
    "delf.cli.export",
    "write a trained model as SavedModel, .onnx or .tflite",
  ),
  "info": ("delf.cli.info", "show the content of a file or a model"),
  "models": ("delf.cli.models", "list and download models"),
  "download": ("delf.cli.download", "download a published data set"),
  "demo": ("delf.cli.demo", "match two sample photos, with a picture"),
  "doctor": ("delf.cli.doctor", "check that this installation works"),
  "help": (__name__, "show the help of a command"),
  "completion": (__name__, "print completions for bash, zsh or tcsh"),
}

_EXAMPLES = """\
examples:
  delf demo                             two sample photos, matched
  delf match a.jpg b.jpg                your photos, matched
  delf extract photos/ --out features/  features of a folder
  delf help COMMAND                     options and examples of a command

exit status: 0 done, 1 failed, or some photos failed (a line on standard error
says why), 2 wrong usage, 130 interrupted
"""

# End of the help of `help` and `completion`, which are in this module.
EXAMPLES = """\
examples:
  delf help search
  delf completion bash > ~/.local/share/bash-completion/completions/delf
  delf completion zsh > ~/.zfunc/_delf        with ~/.zfunc in fpath
"""

_BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it.


def main(argv: Sequence[str] | None = None) -> int:
  """Run a command line, by default the program's; return the exit status.

  `argparse` raises SystemExit after help (0) and errors of usage (2).
  """
  # Alone it shows its help.
  argv = (sys.argv[1:] if argv is None else list(argv)) or ["help"]
  command = next((arg for arg in argv if not arg.startswith("-")), None)
  debug = os.environ.get("DELF_DEBUG", "") not in ("", "0")
  try:
    # Importing a command is inside, so that a package it lacks has its line.
    args = make_parser(command).parse_args(argv)
    debug = debug or args.debug
    output.show_log(_level(args))
    output.print_any_name()
    if not debug:
      output.silence_tensorflow()
    status = _run(args) or 0
    if status == errors.INTERRUPTED:
      output.error(_interrupted(command, argv))
    # A pipe that was closed shows here rather than when Python shuts down.
    if sys.stdout is not None:
      sys.stdout.flush()
    return status
  except KeyboardInterrupt:
    return _fail(_interrupted(command, argv), errors.INTERRUPTED, debug)
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
    missing = f"the Python package {error.name} is missing"
    return _fail(f"{missing}; `delf doctor` checks all packages", 1, debug)
  except Exception:  # The last resort of a program: its own faults.
    return _report_bug()


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of `help` and `completion`."""
  help = "command to explain, or shell to complete for"
  parser.add_argument("topic", nargs="*", metavar="COMMAND|SHELL", help=help)


def run(args: argparse.Namespace) -> None:
  """Print help or completions; return the exit status."""
  if args.command == "help":
    parser = make_parser(args.topic[0] if args.topic else None)
    parser.parse_args([*args.topic, "--help"])
  import shtab

  if len(args.topic) != 1 or args.topic[0] not in shtab.SUPPORTED_SHELLS:
    shells = ", ".join(shtab.SUPPORTED_SHELLS)
    raise errors.InputError(f"name one shell: {shells}")
  print(shtab.complete(make_parser(whole=True), args.topic[0]))


def _level(args):
  if args.quiet:
    return logging.ERROR
  return logging.INFO if args.verbose else logging.WARNING


def _run(args):
  if not args.quiet:
    return args.run(args)
  from delf.base import progress

  with progress.shown(False):
    return args.run(args)


def _interrupted(command, argv):
  module = importlib.import_module(COMMANDS[command][0])
  if not getattr(module, "RESUMES", False):
    return "interrupted"
  return f"interrupted; to resume, repeat: {shlex.join(['delf', *argv])}"


def make_parser(command: str | None = None, whole: bool = False) -> Parser:
  """Return the parser of the command line, complete for one or all commands."""
  parser = Parser(
    prog="delf",
    description="Instance-level image recognition: features, matches, models.",
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  version = f"delf {delf.__version__}"
  parser.add_argument("--version", action="version", version=version)
  _add_common(parser)
  subparsers = parser.add_subparsers(
    dest="command", metavar="COMMAND", required=True
  )
  for name, (module_name, summary) in COMMANDS.items():
    subparser = arguments.add_command(subparsers, name, summary)
    _add_common(subparser, default=argparse.SUPPRESS)
    if whole or name == command:
      module = importlib.import_module(module_name)
      subparser.epilog = module.EXAMPLES
      module.add_arguments(subparser)
      subparser.set_defaults(run=module.run)
  return parser


def _add_common(parser, **options):
  """Add options of each command, which may also stand before its name."""
  for name, help in (
    ("--debug", "show tracebacks and TensorFlow's messages (or DELF_DEBUG=1)"),
    ("--quiet", "show no progress and no warnings"),
    ("--verbose", "show more of the work: skipped, replaced, resumed"),
  ):
    parser.add_argument(name, action="store_true", help=help, **options)


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
