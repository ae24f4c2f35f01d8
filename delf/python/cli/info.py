"""`delf info`: what is in a file or a model."""

from delf.python.cli import json_output, say

_EXAMPLES = """\
examples:
  delf info features/image_1.delf         how many features, of what size
  delf info delf/embedded/delf-compact    signatures and tensors of a model
  delf info model/variables/variables     keys and shapes of a checkpoint
  delf info photos.index                  images and settings of an index
  delf info --json *.delg_global | jq .   for other programs
"""


def add_arguments(parser):
  """Adds the arguments of this command to an `argparse` parser."""
  parser.epilog = _EXAMPLES
  parser.add_argument(
    "files",
    nargs="+",
    metavar="FILE",
    help="feature, datum, box or aggregation file, .pbtxt configuration, "
    "index, image, SavedModel folder, or TensorFlow checkpoint",
  )
  parser.add_argument(
    "--json", action="store_true", help="print one JSON document: a list"
  )


def run(args):
  """Prints what each file holds; returns the exit status."""
  from delf.python import errors
  from delf.python.pipelines import describe

  found, status = [], 0
  for path in args.files:
    try:
      found.append(describe.describe(path))
    except (errors.InputError, OSError) as error:
      say.error(error)
      status = 1
      continue
    if not args.json:
      _print(found[-1])
  if args.json:
    json_output.print_json(found)
  return status


def _print(found):
  found = dict(found)
  print(f"{found.pop('path')}: {found.pop('kind')}")
  _print_fields(found, "  ")


def _print_fields(fields, indent):
  for name, value in fields.items():
    label = name.replace("_", " ") if indent == "  " else name
    if isinstance(value, dict):
      print(f"{indent}{label}")
      _print_fields(value, indent + "  ")
    elif isinstance(value, list) and len(value) == 2 and _is_range(value):
      print(f"{indent}{label}: {value[0]:g} to {value[1]:g}")
    else:
      print(f"{indent}{label}: {_text(value)}")


def _is_range(value):
  return all(isinstance(v, float) for v in value)


def _text(value):
  if isinstance(value, list):
    return ", ".join(_text(v) for v in value) if value else "none"
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int):
    return f"{value:,}".replace(",", " ")
  if isinstance(value, float):
    return f"{value:g}"
  return str(value)
