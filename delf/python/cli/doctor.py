"""`delf doctor`: says whether this installation works."""

import dataclasses
import textwrap

from delf.python.cli import arguments, json_output

_EXAMPLES = """\
examples:
  delf doctor          each check with OK or FAIL, in about ten seconds
  delf doctor --json   the same for programs, and for reports of faults

The exit status is 0 if all is well, else 1.
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  arguments.add_json(parser)


def run(args):
  """Checks and prints; returns the exit status."""
  from delf.python.pipelines import checkup

  results = []
  for result in checkup.run():
    results.append(result)
    if not args.json:
      print(_line(result), flush=True)
  failed = [result.name for result in results if not result.ok]
  if args.json:
    checks = [dataclasses.asdict(result) for result in results]
    json_output.print_json({"ok": not failed, "checks": checks})
  else:
    print(f"Not well: {', '.join(failed)}." if failed else "All is well.")
  return 1 if failed else 0


def _line(result):
  """Returns a result as text, with long details on lines of their own."""
  state = "OK  " if result.ok else "FAIL"
  return textwrap.fill(
    f"{state} {result.name:<14} {result.detail} ({result.seconds:.1f} s)",
    width=100,
    subsequent_indent=" " * 20,
    break_long_words=False,
    break_on_hyphens=False,
  )
