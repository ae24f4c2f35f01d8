"""Prints figures of the code's grain, or the files that a command runs through.

  python tools/house.py [FOLDER]
  python tools/house.py [FOLDER] --path -- delf search my.index photo.jpg
  python tools/house.py [FOLDER] --path -- delf/python/delg/perform_retrieval.py

FOLDER is a checkout; without it, this one. Counted is `delf/` without tests and
without generated code; each figure says what it counts.
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

# `python -m delf` would take the delf of the current folder, if it has one.
_AS_DELF = (
  "import runpy, sys; sys.path.pop(0); "
  "runpy.run_module('delf', run_name='__main__', alter_sys=True)"
)

# Runs in each process of a traced command, before anything of it.
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
  # Returns whether this code need not be looked at again.
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
  """A module that is counted.

  Attributes:
    path: Relative to the checkout.
    tree: Its syntax tree.
    lines: Number of its lines.
    docstrings: Nodes that have a docstring, and the text as it is written.
    code: Number of lines that are neither blank, comment nor docstring.
  """

  path: pathlib.Path
  tree: ast.Module
  lines: int
  docstrings: list
  code: int

  @property
  def name(self):
    """The dotted name; a package's ends with `__init__`."""
    return ".".join(self.path.with_suffix("").parts)

  @property
  def is_package(self):
    """Whether it is the `__init__` of a folder."""
    return self.path.name == "__init__.py"


def read(path, root):
  """Returns the Module of a file."""
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
  """Returns the Module of each file of `delf/` that is counted."""
  paths = (
    path
    for path in sorted((root / "delf").rglob("*.py"))
    if not path.name.endswith(("_test.py", "_pb2.py"))
  )
  return [read(path, root) for path in paths]


def importers(found):
  """Returns, by dotted name, the modules that import it anywhere in them."""
  by_name = collections.defaultdict(set)
  for module in found:
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


def functions(found):
  """Returns (lines, lines of the body, where) of each function.

  Neither has the docstring in it; the first has the signature.
  """
  measured = []
  for module in found:
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


def dataclass_names(found):
  """Returns the names of all classes with the decorator `dataclass`."""
  return [
    node.name
    for module in found
    for node in ast.walk(module.tree)
    if isinstance(node, ast.ClassDef)
    and any("dataclass" in ast.unparse(each) for each in node.decorator_list)
  ]


def tests(root):
  """Returns the numbers of test files, and of tests in them."""
  files = [
    path
    for top in ("delf", "tests")
    for path in (root / top).rglob("*_test.py")
  ]
  found = sum(
    len(re.findall(r"^\s*def test_", path.read_text(encoding="utf-8"), re.M))
    for path in files
  )
  return len(files), found


def figures(root):
  """Returns (figure, value, what is counted) of a checkout, as text."""
  found = modules(root)
  lines = sum(module.lines for module in found)
  rows = [
    ("lines", lines, "of delf/**/*.py but *_test.py and *_pb2.py"),
    ("modules", _module_count(found, root), "each __init__.py included"),
    *_docstring_rows(found, lines),
    *_module_rows(found),
    *_function_rows(found),
  ]
  names = dataclass_names(found)
  carriers = [name for name in names if name.endswith(_CARRIERS)]
  files, number = tests(root)
  return [
    *rows,
    ("dataclasses", len(names), "classes with the decorator"),
    ("*Options/Settings/Report", len(carriers), "dataclasses so named"),
    ("test files", files, "*_test.py of delf/ and tests/"),
    ("tests", number, "`def test_` in them"),
  ]


def _module_count(found, root):
  generated = sum(1 for _ in (root / "delf").rglob("*_pb2.py"))
  return f"{len(found)} ({len(found) + generated} with *_pb2.py)"


def _docstring_rows(found, lines):
  texts = [text for module in found for _, text in module.docstrings]
  number = sum(text.count("\n") + 1 for text in texts)
  entries = sum(len(_AS_THERE.findall(text)) for text in texts)
  share = f"{number} ({100 * number / max(lines, 1):.1f} %)"
  return [
    ("docstring lines", share, "of modules, classes and functions"),
    ('"as there"', entries, 'entries of docstrings that begin with "As"'),
  ]


def _module_rows(found):
  folders = collections.Counter(str(each.path.parent) for each in found)
  fullest = ", ".join(
    f"{folder} {number}" for folder, number in folders.most_common(_FULLEST)
  )
  by_name = importers(found)
  plain = [module for module in found if not module.is_package]
  single = [each for each in plain if len(by_name[each.name]) == 1]
  small = sum(module.code <= _SMALL_MODULE for module in plain)
  share = f"{len(single)} ({sum(each.lines for each in single)} lines)"
  return [
    ("fullest folders", fullest, "modules right in them"),
    ("one importer", share, "imported by one counted module; no __init__.py"),
    (
      "small modules",
      small,
      f"at most {_SMALL_MODULE} lines of code; no __init__.py",
    ),
  ]


def _function_rows(found):
  measured = functions(found)
  short = sum(size < _SHORT_BODY for _, size, _ in measured)
  sizes = [lines for lines, _, _ in measured] or [0]
  middle, high = sizes[len(sizes) // 2], sizes[int(0.9 * len(sizes))]
  longest = f"{measured[-1][2]}" if measured else ""
  return [
    ("functions", len(measured), "methods and inner ones too"),
    ("short bodies", short, f"under {_SHORT_BODY} lines, docstring aside"),
    (
      "function lines",
      f"p50 {middle}, p90 {high}, max {sizes[-1]} ({longest})",
      "with signature, without docstring",
    ),
  ]


def path_of(root, command):
  """Runs a command and returns the files of `delf/` that it runs through.

  Args:
    root: Checkout that the command is of; it runs in the current folder.
    command: `delf` and its arguments, or the path of a script, absolute or
      within the checkout, and its arguments.

  Returns:
    (files, status): paths relative to the checkout in which a function with a
    name was run, other than by an import, in order of the first, in all of the
    command's processes; and the exit status. What it prints goes to standard
    error.
  """
  if command[0] == "delf":
    words = ["-c", _AS_DELF, *command[1:]]
  else:
    words = [str(root / command[0]), *command[1:]]
  with tempfile.TemporaryDirectory() as folder:
    log = pathlib.Path(folder, "log")
    log.touch()
    # Python imports this at its start, in workers too.
    pathlib.Path(folder, "sitecustomize.py").write_text(_TRACER)
    paths = [folder, str(root), os.environ.get("PYTHONPATH", "")]
    variables = {
      "PYTHONPATH": os.pathsep.join(filter(None, paths)),
      "HOUSE_LOG": str(log),
      "HOUSE_ROOT": str(root),
    }
    status = subprocess.run(
      [sys.executable, *words],
      env=os.environ | variables,
      stdout=sys.stderr.fileno(),
      check=False,
    ).returncode
    names = dict.fromkeys(log.read_text().splitlines())
  return [name for name in names if name.startswith("delf" + os.sep)], status


def main():
  """Prints figures or files; returns the exit status."""
  words = sys.argv[1:]
  cut = words.index("--") if "--" in words else len(words)
  words, command = words[:cut], words[cut + 1 :]
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", nargs="?", type=pathlib.Path, default=_HERE)
  parser.add_argument(
    "--path",
    action="store_true",
    help="run the command behind --, and print the files that it runs through",
  )
  args = parser.parse_args(words)
  if args.path != bool(command):
    parser.error("--path and a command behind -- go together")
  root = args.folder.resolve()
  if not (root / "delf").is_dir():
    parser.error(f"{root}: no folder delf in it")
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
