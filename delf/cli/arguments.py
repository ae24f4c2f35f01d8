"""Arguments that several commands take, and the kinds of their values."""

import argparse
import difflib
import inspect
from collections.abc import Callable
from typing import Any


class Parser(argparse.ArgumentParser):
  """A parser that suggests names for those that are misspelt."""

  def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
    """Parse as argparse does, but refuse options that it does not know."""
    namespace, extras = super().parse_known_args(args, namespace)
    if extras:
      options = list(self._option_string_actions)
      hints = filter(None, (near(extra, options) for extra in extras))
      self.error(" ".join(["unrecognized arguments:", *extras, *hints]))
    return namespace, extras

  def _check_value(self, action, value):
    if action.choices is not None and value not in action.choices:
      names = list(map(str, action.choices))
      hint = near(str(value), names) or f"(choose from {', '.join(names)})"
      raise argparse.ArgumentError(action, f"invalid choice: {value!r} {hint}")


def near(name: str, names: list[str]) -> str:
  """Return a question that suggests names like a misspelt one, or ""."""
  name = name.partition("=")[0]
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
  return f"(did you mean {' or '.join(close)}?)" if close else ""


def _kind(name: str, convert: Callable, is_valid: Callable) -> Callable:
  """Type for `argparse`, which names it in its errors."""

  def parse(text):
    value = convert(text)
    if not is_valid(value):
      raise ValueError
    return value

  parse.__name__ = name
  return parse


_INFINITY = float("inf")
positive = _kind("number over 0", float, lambda x: 0 < x < _INFINITY)
positive_whole = _kind("whole number over 0", int, lambda n: n >= 1)
whole = _kind("whole number from 0 on", int, lambda n: n >= 0)
finite = _kind("number", float, lambda x: abs(x) < _INFINITY)
share = _kind("number from 0 to 1", float, lambda x: 0 <= x <= 1)
box = _kind(
  "box of four numbers x1,y1,x2,y2",
  lambda text: tuple(map(float, text.split(","))),
  lambda edges: len(edges) == 4,
)


def add_command(
  subparsers: Any, name: str, summary: str, examples: str | None = None
) -> argparse.ArgumentParser:
  """Add a sub-command, described by its summary, and return its parser."""
  return subparsers.add_parser(
    name,
    help=summary,
    description=f"{summary[0].upper()}{summary[1:]}.",
    epilog=examples,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )


# Options that mean the same wherever a command has them.
_SHARED: dict[str, dict[str, Any]] = {
  "--config": {"metavar": "FILE"},
  "--max-size": {"type": positive_whole, "metavar": "N"},
  "--seed": {"type": whole, "default": 0, "metavar": "N"},
  "--rotate": {"action": "store_true"},
  "--device": {"metavar": "NAME"},
  "--json": {"action": "store_true"},
}
_HELP = {
  "--config": ".pbtxt configuration of extraction (default: the model's own)",
  "--max-size": "scale the longer side of photos down to N pixels",
  "--seed": "random seed (default: 0)",
  "--rotate": "apply the EXIF orientation of photos (default: as stored)",
  "--device": "cpu, gpu or gpu:N (default: the best)",
  "--json": "print one JSON document on standard output",
}


def add(parser: Any, *names: str, **changes: Any) -> None:
  """Add options that several commands share, such as "--device"."""
  for name in names:
    options = _SHARED[name] | changes
    parser.add_argument(name, help=_HELP[name], **options)


def add_number(
  parser: Any,
  name: str,
  help: str,
  default: int | None = None,
  metavar: str = "N",
) -> None:
  """Add a whole number over 0; its help says its default."""
  if default is not None:
    help += f" (default: {default})"
  parser.add_argument(
    name, type=positive_whole, default=default, metavar=metavar, help=help
  )


def add_model(
  parser: argparse.ArgumentParser,
  default: str = "the one of --config, else the embedded one",
) -> None:
  """Add --model."""
  help = (
    "known model (`delf models`), folder of a SavedModel, or .onnx or "
    f".tflite file (default: {default})"
  )
  parser.add_argument("--model", metavar="NAME|PATH", help=help)


def add_photos(parser: argparse.ArgumentParser) -> None:
  """Add the photos of extraction and detection."""
  help = (
    "folder (with its sub-folders), quoted pattern, photo, or text file with "
    "paths of photos"
  )
  parser.add_argument("sources", nargs="+", metavar="PHOTOS", help=help)


def add_work(parser: argparse.ArgumentParser) -> None:
  """Add options of work on many photos: --rotate, --batch and others."""
  add(parser, "--rotate")
  help = (
    "most photos of one size at once (default: 1 on a CPU, as many as fit in "
    "memory on a GPU)"
  )
  add_number(parser, "--batch", help)
  help = "threads that decode (default: 1; 0: none, the main one decodes)"
  parser.add_argument(
    "--workers", type=whole, default=1, metavar="N", help=help
  )
  add(parser, "--device")
  help = "process photos again that are done"
  parser.add_argument("--overwrite", action="store_true", help=help)
  add(parser, "--json")


def call(function: Callable, args: argparse.Namespace, **more: Any) -> Any:
  """Call a function with the arguments that its parameters are named after."""
  names = inspect.signature(function).parameters
  values = {name: value for name, value in vars(args).items() if name in names}
  return function(**values | more)


def pick(args: argparse.Namespace, *names: str) -> dict[str, Any]:
  """Return some arguments by name."""
  return {name: getattr(args, name) for name in names}
