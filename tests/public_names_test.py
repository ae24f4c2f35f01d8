"""The public names of `delf`: a change of them shows in public_names.txt.

To accept a change: python -m tests.public_names_test
"""

import argparse
import ast
import dataclasses
import inspect
import operator
import pathlib
import re

import pytest

import delf
from delf.cli import main

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SNAPSHOT = pathlib.Path(__file__).with_name("public_names.txt")
_UPDATE = "to accept the change: python -m tests.public_names_test"


def _public():
  return {name: getattr(delf, name) for name in sorted(delf._FACE)}


def _members(cls):
  """Return what a class or a base of ours defines, by public name."""
  members = {}
  for base in reversed(getattr(cls, "__mro__", ())):
    if base.__module__.startswith("delf."):
      members |= vars(base)
  return {k: v for k, v in members.items() if not k.startswith("_")}


def _text(annotation):
  if annotation is inspect.Parameter.empty:
    return ""
  if not isinstance(annotation, str):
    annotation = inspect.formatannotation(annotation)
  return re.sub(r"\b(typing|collections\.abc)\.", "", annotation)


def _signature(name, function, indent=""):
  """Return a signature as text, a parameter a line."""
  signature = inspect.signature(function)
  lines = [f"{indent}{name}("]
  starred = False
  for each in signature.parameters.values():
    if each.kind is each.KEYWORD_ONLY and not starred:
      lines.append(f"{indent}  *,")
      starred = True
    line = each.name
    if each.kind is each.VAR_POSITIONAL:
      line, starred = f"*{line}", True
    if each.kind is each.VAR_KEYWORD:
      line = f"**{line}"
    if _text(each.annotation):
      line += f": {_text(each.annotation)}"
    if each.default is not each.empty:
      value = each.default
      line += f" = {value.__name__ if callable(value) else repr(value)}"
    lines.append(f"{indent}  {line},")
  returned = _text(signature.return_annotation)
  returned = f" -> {returned}" if returned else ""
  return "\n".join([*lines, f"{indent}){returned}"])


def _describe_class(name, cls):
  yield f"class {name}"
  fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
  for field in fields:
    default = ""
    if field.default is not dataclasses.MISSING:
      default = f" = {field.default!r}"
    elif field.default_factory is not dataclasses.MISSING:
      default = f" = {field.default_factory.__name__}()"
    yield f"  {field.name}: {_text(field.type)}{default}"
  if not fields:
    yield _signature("__init__", cls.__init__, "  ")
  names = {field.name for field in fields}
  for member, value in sorted(_members(cls).items()):
    if member in names:
      continue
    if isinstance(value, property):
      returned = _text(inspect.signature(value.fget).return_annotation)
      yield f"  @property\n  {member} -> {returned}"
    elif callable(value) or isinstance(value, classmethod | staticmethod):
      if isinstance(value, classmethod):
        yield "  @classmethod"
      yield _signature(member, getattr(value, "__func__", value), "  ")


def _snapshot():
  """Return all public names with their signatures, as text."""
  parts = []
  for name, value in _public().items():
    if inspect.isclass(value):
      parts.append("\n".join(_describe_class(name, value)))
    else:
      parts.append(_signature(name, value))
  names = "\n".join(sorted(delf._MODULES))
  return "\n\n".join([*parts, f"modules of the original:\n{names}"]) + "\n"


def test_public_names_are_those_of_the_list():
  assert _snapshot() == _SNAPSHOT.read_text(), _UPDATE


def test_type_checkers_see_the_public_names():
  tree = ast.parse((_ROOT / "delf" / "__init__.py").read_text())
  (block,) = (
    node
    for node in tree.body
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
  )
  seen = {}
  for node in block.body:
    for alias in node.names:
      assert alias.asname == alias.name, "`import x as x` exports it"
      seen[alias.name] = node.module
  assert seen == delf._FACE


def test_reference_pages_have_the_public_names_and_no_others_of_their_modules():
  pages = sorted((_ROOT / "docs" / "reference").glob("*.rst"))
  documented = set()
  for page in pages:
    documented |= set(
      re.findall(r"auto(?:function|class):: delf\.(\S+)", page.read_text())
    )
  assert {name for name in documented if "." not in name} == set(delf._FACE)
  assert not [name for name in documented if name.startswith("api.")]


# Methods that the examples of others use, or whose meaning is in their name.
_NO_EXAMPLE = {
  "Hit.to_dict",
  "Index.close",
  "LocalFeatures.empty",
  "Match.draw",
  "Match.to_dict",
  "Record.to_dict",
}
# Class -> what makes it, whose example shows it.
_MADE_BY = {
  "ImageFeatures": "Model.extract",
  "Index": "Index.open",
  "LocalFeatures": "Model.extract",
  "Model": "load",
  "PhotoBoxes": "detect",
}


def _has_example(value):
  return ">>> import delf\n" in (inspect.getdoc(value) or "")


def test_public_functions_and_methods_have_an_example():
  missing = set()
  for name, value in _public().items():
    maker = operator.attrgetter(_MADE_BY.get(name, name))(delf)
    if not _has_example(maker):
      missing.add(name)
    for member, method in _members(value).items():
      is_method = isinstance(method, classmethod) or inspect.isfunction(method)
      owner = getattr(getattr(value, member), "__qualname__", "")
      if is_method and owner not in _NO_EXAMPLE and not _has_example(method):
        missing.add(owner)
  assert not missing


# Command -> its public function. `index` has --remove and --merge, which are
# methods of Index.
_FUNCTIONS = {
  "match": "match",
  "extract": "extract",
  "detect": "detect",
  "index": "Index.build",
  "search": "Index.search_files",
  "eval": "evaluate",
  "train": "train",
  "train-detector": "train_detector",
  "export": "export",
  "info": "info",
  "fit pca": "fit_pca",
  "fit whitening": "fit_whitening",
  "fit codebook": "fit_codebook",
}
# Options of the command line alone: what is printed, and how.
_SHOWN = {"help", "debug", "quiet", "verbose", "json", "run", "kind"}
_COMMAND_ONLY = {
  "match": {"no_picture"},
  "index": {"remove", "merge"},
  "info": {"files"},  # Each is the function's `path`.
  "search": {"index", "device"},  # Of Index.open.
}


def _commands(parser, path=()):
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for name, command in action.choices.items():
        yield " ".join([*path, name]), command
        yield from _commands(command, (*path, name))


@pytest.mark.parametrize("command", _FUNCTIONS)
def test_options_are_parameters_of_the_public_function(command):
  parser = dict(_commands(main.make_parser(whole=True)))[command]
  function = operator.attrgetter(_FUNCTIONS[command])(delf)
  options = {action.dest for action in parser._actions} - _SHOWN
  options -= _COMMAND_ONLY.get(command, set())
  assert options <= set(inspect.signature(function).parameters)


def test_every_command_has_a_public_function_or_needs_none():
  commands = {name.partition(" ")[0] for name in _FUNCTIONS}
  others = {"models", "download", "demo", "doctor", "completion", "help"}
  assert commands | {"fit"} | others == set(main.COMMANDS)


def _functions(tree):
  """Yield (name, node) of public functions and methods at any class depth."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
      for name, method in _functions(node):
        yield f"{node.name}.{name}", method
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      is_special = re.fullmatch(r"__\w+__", node.name)
      if is_special or not node.name.startswith("_"):
        yield node.name, node


def _lacks_hints(name, node):
  """Return whether a parameter or the result has no annotation."""
  if "overload" in map(ast.unparse, node.decorator_list):
    return False
  arguments = node.args
  given = [*arguments.posonlyargs, *arguments.args]
  is_method = "." in name
  is_static = "staticmethod" in map(ast.unparse, node.decorator_list)
  if is_method and not is_static:
    given = given[1:]
  given += [*arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
  if any(each is not None and each.annotation is None for each in given):
    return True
  return node.returns is None and node.name != "__init__"


def _without_hints():
  """Return `path:line name` of public functions that lack a hint."""
  lacking = []
  for path in sorted((_ROOT / "delf").rglob("*.py")):
    name = path.relative_to(_ROOT).as_posix()
    if name.endswith(("_test.py", "_pb2.py")):
      continue
    tree = ast.parse(path.read_text())
    overloads = {
      each
      for each, node in _functions(tree)
      if "overload" in map(ast.unparse, node.decorator_list)
    }
    lacking += [
      f"{name}:{node.lineno} {each}"
      for each, node in _functions(tree)
      if each not in overloads and _lacks_hints(each, node)
    ]
  return lacking


def test_public_functions_have_type_hints():
  lacking = _without_hints()
  assert not lacking, "\n".join(lacking)


if __name__ == "__main__":
  _SNAPSHOT.write_text(_snapshot())
