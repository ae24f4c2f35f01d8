"""`delf info`: content of a file or a model."""

import argparse

from delf.base import errors
from delf.cli import output

EXAMPLES = """\
examples:
  delf info features/image_1.delf         number and size of its features
  delf info delf/embedded/delf-compact    signatures and tensors of a model
  delf info model/variables/variables     keys and shapes of a checkpoint
  delf info photos.index                  images and settings of an index
  delf info --json *.delg_global | jq .   for other programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  help = (
    "feature, datum, box or aggregation file, .pbtxt configuration, "
    "index, image, SavedModel folder, or TensorFlow checkpoint"
  )
  parser.add_argument("files", nargs="+", metavar="FILE", help=help)
  parser.add_argument(
    "--json", action="store_true", help="print one JSON document: a list"
  )


def run(args: argparse.Namespace) -> int:
  """Print the content of each file; return the exit status."""
  from delf.api.info import info

  documents, status = [], 0
  for path in args.files:
    try:
      document = info(path)
    except (errors.InputError, OSError) as error:
      output.error(error)
      status = 1
      continue
    documents.append(document)
    if not args.json:
      fields = dict(document)
      print(f"{fields.pop('path')}: {fields.pop('kind')}")
      _print_fields(fields, "  ")
  if args.json:
    output.print_json(documents)
  return status


def _print_fields(fields, indent):
  for name, value in fields.items():
    label = name.replace("_", " ") if indent == "  " else name
    if isinstance(value, dict):
      print(f"{indent}{label}")
      _print_fields(value, indent + "  ")
    elif isinstance(value, list) and list(map(type, value)) == [float, float]:
      print(f"{indent}{label}: {value[0]:g} to {value[1]:g}")
    else:
      print(f"{indent}{label}: {_text(value)}")


def _text(value):
  if isinstance(value, list):
    return ", ".join(map(_text, value)) if value else "none"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}".replace(",", " ")
  return f"{value:g}" if isinstance(value, float) else str(value)
