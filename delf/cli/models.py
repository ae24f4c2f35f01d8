"""`delf models`: lists known models, and downloads them."""

import argparse
import os

from delf.base import errors
from delf.cli import arguments, output

EXAMPLES = """\
examples:
  delf models                                  all, with their addresses
  delf models download r50delg_gldv2clean      get one, or resume
  delf models path r50delg_gldv2clean          its folder, for scripts
  delf models info r50delg_gldv2clean          its settings and its checksum
  delf models list --json

Downloads go to $DELF_CACHE, or to delf in the user's folder of caches
(~/.cache). The SHA-256 of each is recorded there at the first download, and
later ones must have the same. A name may be given without its date.
"""

_LIST_EXAMPLES = """\
examples:
  delf models list
  delf models list --json | jq '.[] | select(.present) | .name'
"""

_INFO_EXAMPLES = """\
examples:
  delf models info delf-compact
  delf models info r50delg_gldv2clean --json | jq -r .configuration
"""

_PATH_EXAMPLES = """\
examples:
  delf info "$(delf models path delf-compact)"
"""

_DOWNLOAD_EXAMPLES = """\
examples:
  delf models download r50delg_gldv2clean
  delf models download r50delg_gldv2clean --url https://mirror/of/it.tar.gz
  delf models download r50delg_gldv2clean --force --sha256 0123...

Without a network on this machine: download the archive (see `delf models info`)
on another one, unpack it anywhere, and use the path of its folder in place of
the name.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Add the arguments of this command."""
  arguments.add(parser, "--json")
  parser.set_defaults(act=_list)
  actions = parser.add_subparsers(metavar="ACTION")
  for name, act, summary, examples in (
    ("list", _list, "list known models (the default)", _LIST_EXAMPLES),
    ("info", _info, "say all about one", _INFO_EXAMPLES),
    ("path", _path, "print where one is on this machine", _PATH_EXAMPLES),
    ("download", _download, "download one", _DOWNLOAD_EXAMPLES),
  ):
    action = arguments.add_command(actions, name, summary, examples)
    # No default: --json may also stand before the action.
    arguments.add(action, "--json", default=argparse.SUPPRESS)
    action.set_defaults(act=act)
    if act is not _list:
      action.add_argument("name", metavar="NAME", help="name of a model")
  add = action.add_argument
  help = "address of the archive (default: published)"
  add("--url", metavar="URL", help=help)
  help = "of the archive (default: as at the first download)"
  add("--sha256", metavar="HEX", help=help)
  add("--force", action="store_true", help="download an existing one again")


def run(args: argparse.Namespace) -> int:
  """Run the action; return the exit status."""
  return args.act(args)


def _list(args):
  from delf.inference import zoo

  entries = [_describe(known) for known in zoo.ARTEFACTS.values()]
  lines: list[str] = []
  kind = None
  for entry in entries:
    if entry["kind"] != kind:
      kind = entry["kind"]
      lines += [""] * bool(lines) + [kind.upper()]
    lines += [
      f"  {entry['name']:<30} {_state(entry)}",
      f"    {entry['purpose']}",
    ]
    if entry["url"] or entry["present"]:
      lines.append(f"    {entry['path'] if entry['present'] else entry['url']}")
  output.show(args, entries, *lines)


def _info(args):
  from google.protobuf import text_format

  from delf.inference import zoo

  known = zoo.artefact(args.name)
  try:
    configuration = text_format.MessageToString(zoo.default_config(known.name))
  except errors.InputError:
    configuration = None
  entry = _describe(known) | {"configuration": configuration}
  facts = {"kind": entry["kind"], "state": _state(entry)}
  facts |= {key: entry[key] for key in ("url", "path", "size", "sha256")}
  lines = [f"  {k:<7} {v}" for k, v in facts.items() if v is not None]
  if configuration:
    lines.append("  configuration")
    lines += [f"    {line}" for line in configuration.rstrip().split("\n")]
  output.show(args, entry, f"{entry['name']}: {entry['purpose']}", *lines)


def _path(args):
  from delf.inference import zoo

  known = zoo.artefact(args.name)
  path = os.path.abspath(zoo.locate(known))
  output.show(args, {"name": known.name, "path": path}, path)


def _download(args):
  from delf.downloads import transfer
  from delf.inference import zoo

  known = zoo.artefact(args.name)
  how = arguments.pick(args, "url", "sha256", "force")
  folder = transfer.install(known, **how)
  entry = _describe(known)
  lines = [f"{known.name}: {os.path.abspath(folder)}"]
  if entry["sha256"]:
    lines.append(f"  {entry['size']:,} bytes, SHA-256 {entry['sha256']}")
  output.show(args, entry, *lines)


def _describe(known):
  """Return facts about a model, as plain values for JSON."""
  from delf.downloads import transfer
  from delf.inference import zoo

  record = transfer.recorded(known.name)
  return {
    "name": known.name,
    "alias": known.alias,
    "kind": known.kind,
    "purpose": known.purpose,
    "url": known.url,
    "unavailable": known.unavailable or None,
    "present": zoo.is_present(known),
    "path": os.path.abspath(zoo.folder(known)),
    "size": record.size if record else None,
    "sha256": record.sha256 if record else None,
  }


def _state(entry):
  if entry["unavailable"]:
    return f"not available: {entry['unavailable']}"
  if entry["url"] is None:
    return "in the package" if entry["present"] else "missing in this package"
  return "downloaded" if entry["present"] else "not downloaded"
