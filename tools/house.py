"""Prints figures about the code, or the files that a command runs through.

  python tools/house.py [FOLDER]
  python tools/house.py [FOLDER] --path -- delf search my.index photo.jpg
  python tools/house.py [FOLDER] --path -- delf/python/delg/perform_retrieval.py

FOLDER is a checkout, by default this one. Only `delf/` counts, without tests or
generated code; each figure comes with its definition.
"""

import argparse
import ast
import collections
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile

_HERE = pathlib.Path(__file__).resolve().parent.parent

_SMALL_MODULE = 40  # Lines of code.
_SHORT_BODY = 4  # Lines; fewer are short.
_FULLEST = 5

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_AS_THERE = re.compile(r"^\s+[*\w, ]+: As ", re.M)
_CARRIERS = ("Options", "Settings", "Report")

# `python -m delf` would import delf from the current folder, if it has one.
_AS_DELF = (
  "import runpy, sys; sys.path.pop(0); "
  "runpy.run_module('delf', run_name='__main__', alter_sys=True)"
)

# Runs first in each process of a traced command.
_TRACER = """
import os, sys, threading

_LOG, _ROOT = os.environ["HOUSE_LOG"], os.environ["HOUSE_ROOT"] + os.sep
_IMPORT = "<frozen importlib._bootstrap>"
_FUNCTION = 1  # CO_OPTIMIZED, which bodies of modules and classes lack.
_seen = set()


def _importing(frame):
  while frame is not None and frame.f_code.co_filename != _IMPORT:
    frame = frame.f_back
  return frame is not None


def _note(code):
  # Returns whether to skip this code from now on.
  name = code.co_filename
  if name in _seen or not name.startswith(_ROOT):
    return True
  if not code.co_flags & _FUNCTION or code.co_name[:1] == "<":
    return True
  if _importing(sys._getframe()):
    return False
  _seen.add(name)
  with open(_LOG, "a") as log:
    log.write(name[len(_ROOT):] + "\\n")
  return True


def _profile(frame, event, arg):
  if event == "call":
    _note(frame.f_code)


def _monitor(code, offset):
  return sys.monitoring.DISABLE if _note(code) else None


if hasattr(sys, "monitoring"):
  _tool = sys.monitoring.PROFILER_ID
  sys.monitoring.use_tool_id(_tool, "house")
  _start = sys.monitoring.events.PY_START
  sys.monitoring.register_callback(_tool, _start, _monitor)
  sys.monitoring.set_events(_tool, _start)
else:
  sys.setprofile(_profile)
  threading.setprofile(_profile)
"""


@dataclasses.dataclass
class Module:
  """A counted module.

  Attributes:
    path: Path relative to the checkout.
    tree: Syntax tree.
    lines: Number of lines.
    docstrings: (node, raw docstring) of each node that has one.
    code: Number of lines that are neither blank, comment nor docstring.
  """

  path: pathlib.Path
  tree: ast.Module
  lines: int
  docstrings: list
  code: int

  @property
  def name(self):
    """Dotted name, of a package with `__init__` at the end."""
    return ".".join(self.path.with_suffix("").parts)

  @property
  def is_package(self):
    """Whether the module is the `__init__` of a folder."""
    return self.path.name == "__init__.py"


def read(path, root):
  """Return the Module of a file."""
  text = path.read_text(encoding="utf-8")
  tree = ast.parse(text)
  docstrings, inside = [], set()
  for node in ast.walk(tree):
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Module)):
      docstring = ast.get_docstring(node, clean=False)
      if docstring:
        docstrings.append((node, docstring))
        first = node.body[0]
        inside |= set(range(first.lineno, first.end_lineno + 1))
  code = sum(
    number not in inside and line.strip()[:1] not in ("", "#")
    for number, line in enumerate(text.splitlines(), 1)
  )
  return Module(
    path.relative_to(root), tree, text.count("\n"), docstrings, code
  )


def modules(root):
  """Return the Module of each counted file of `delf/`."""
  paths = (
    path
    for path in sorted((root / "delf").rglob("*.py"))
    if not path.name.endswith(("_test.py", "_pb2.py"))
  )
  return [read(path, root) for path in paths]


def importers(counted):
  """Return the names of the importers of each module, by dotted name."""
  by_name = collections.defaultdict(set)
  for module in counted:
    for node in ast.walk(module.tree):
      for name in _imported(node, module):
        by_name[name].add(module.name)
  return by_name


def _imported(node, module):
  if isinstance(node, ast.Import):
    return [alias.name for alias in node.names]
  if not isinstance(node, ast.ImportFrom):
    return []
  above = module.path.parts[: -node.level] if node.level else ()
  base = ".".join([*above, *filter(None, [node.module])])
  return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def functions(counted):
  """Return (lines, lines of the body, location) of each function, sorted.

  Lines include the signature, but not the docstring.
  """
  measured = []
  for module in counted:
    for node in ast.walk(module.tree):
      if not isinstance(node, _FUNCTIONS):
        continue
      body, lines = node.body, node.end_lineno - node.lineno + 1
      if ast.get_docstring(node) is not None:
        lines -= body[0].end_lineno - body[0].lineno + 1
        body = body[1:]
      size = body[-1].end_lineno - body[0].lineno + 1 if body else 0
      where = f"{module.path}:{node.lineno} {node.name}"
      measured.append((lines, size, where))
  return sorted(measured)


def dataclass_names(counted):
  """Return the names of all classes with the decorator `dataclass`."""
  return [
    node.name
    for module in counted
    for node in ast.walk(module.tree)
    if isinstance(node, ast.ClassDef)
    and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
  ]


def tests(root):
  """Return the number of test files, and of tests in them."""
  files = [
    path
    for top in ("delf", "tests")
    for path in (root / top).rglob("*_test.py")
  ]
  counted = sum(
    len(re.findall(r"^\s*def test_", path.read_text(encoding="utf-8"), re.M))
    for path in files
  )
  return len(files), counted


def figures(root):
  """Return (figure, value, definition) rows for a checkout."""
  counted = modules(root)
  lines = sum(module.lines for module in counted)
  rows = [
    ("lines", lines, "of delf/**/*.py but *_test.py and *_pb2.py"),
    ("modules", _module_count(counted, root), "each __init__.py included"),
    *_docstring_rows(counted, lines),
    *_module_rows(counted),
    *_function_rows(counted),
  ]
  names = dataclass_names(counted)
  carriers = [name for name in names if name.endswith(_CARRIERS)]
  files, number = tests(root)
  return [
    *rows,
    ("dataclasses", len(names), "classes with the decorator"),
    ("*Options/Settings/Report", len(carriers), "dataclasses so named"),
    ("test files", files, "*_test.py of delf/ and tests/"),
    ("tests", number, "`def test_` in them"),
  ]


def _module_count(counted, root):
  generated = sum(1 for _ in (root / "delf").rglob("*_pb2.py"))
  return f"{len(counted)} ({len(counted) + generated} with *_pb2.py)"


def _docstring_rows(counted, lines):
  texts = [text for module in counted for _, text in module.docstrings]
  number = sum(text.count("\n") + 1 for text in texts)
  entries = sum(len(_AS_THERE.findall(text)) for text in texts)
  share = f"{number} ({100 * number / max(lines, 1):.1f} %)"
  return [
    ("docstring lines", share, "of modules, classes and functions"),
    ('"as there"', entries, 'entries of docstrings that begin with "As"'),
  ]


def _module_rows(counted):
  folders = collections.Counter(str(each.path.parent) for each in counted)
  fullest = ", ".join(
    f"{folder} {number}" for folder, number in folders.most_common(_FULLEST)
  )
  by_name = importers(counted)
  plain = [module for module in counted if not module.is_package]
  single = [each for each in plain if len(by_name[each.name]) == 1]
  small = sum(module.code <= _SMALL_MODULE for module in plain)
  share = f"{len(single)} ({sum(each.lines for each in single)} lines)"
  return [
    ("fullest folders", fullest, "modules directly in them"),
    (
      "one importer",
      share,
      "imported by one counted module; without __init__.py",
    ),
    (
      "small modules",
      small,
      f"at most {_SMALL_MODULE} lines of code; without __init__.py",
    ),
  ]


def _function_rows(counted):
  measured = functions(counted)
  short = sum(size < _SHORT_BODY for _, size, _ in measured)
  sizes = [lines for lines, _, _ in measured] or [0]
  middle, high = sizes[len(sizes) // 2], sizes[int(0.9 * len(sizes))]
  longest = f"{measured[-1][2]}" if measured else ""
  return [
    ("functions", len(measured), "including methods and inner functions"),
    ("short bodies", short, f"under {_SHORT_BODY} lines, without docstring"),
    (
      "function lines",
      f"p50 {middle}, p90 {high}, max {sizes[-1]} ({longest})",
      "with signature, without docstring",
    ),
  ]


def path_of(root, command):
  """Run a command and return the files of `delf/` that it runs through.

  The output of the command goes to standard error.

  Args:
    root: Checkout of the command, which runs in the current folder.
    command: `delf` or the path of a script, absolute or within the checkout,
      and arguments.

  Returns:
    (files, status): paths, relative to the checkout, of files with a named
    function that ran outside of imports, in order of the first call, in all
    processes of the command; and the exit status.
  """
  if command[0] == "delf":
    arguments = ["-c", _AS_DELF, *command[1:]]
  else:
    arguments = [str(root / command[0]), *command[1:]]
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder, "log")
    log.touch()
    # Python imports this when it starts, also in workers.
    pathlib.Path(folder, "sitecustomize.py").write_text(_TRACER)
    paths = [folder, str(root), os.environ.get("PYTHONPATH", "")]
    variables = {
      "PYTHONPATH": os.pathsep.join(filter(None, paths)),
      "HOUSE_LOG": str(log),
      "HOUSE_ROOT": str(root),
    }
    status = subprocess.run(
      [sys.executable, *arguments],
      env=os.environ | variables,
      stdout=sys.stderr.fileno(),
      check=False,
    ).returncode
    names = dict.fromkeys(log.read_text().splitlines())
  return [name for name in names if name.startswith("delf" + os.sep)], status


def main():
  """Print figures or files; return the exit status."""
  arguments = sys.argv[1:]
  cut = arguments.index("--") if "--" in arguments else len(arguments)
  arguments, command = arguments[:cut], arguments[cut + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", nargs="?", type=pathlib.Path, default=_HERE)
  parser.add_argument(
    "--path",
    action="store_true",
    help="run the command after --, and print the files that it runs through",
  )
  args = parser.parse_args(arguments)
  if args.path != bool(command):
    parser.error("--path needs a command after --, and the reverse")
  root = args.folder.resolve()
  if not (root / "delf").is_dir():
    parser.error(f"{root} has no folder delf")
  if not args.path:
    for name, value, definition in figures(root):
      print(f"{name:<25} {value}  [{definition}]")
    return 0
  files, status = path_of(root, command)
  print(f"{len(files)} files")
  for name in files:
    print(f"  {name}")
  return status


if __name__ == "__main__":
  sys.exit(main())
