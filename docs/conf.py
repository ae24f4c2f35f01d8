"""Sphinx configuration of the reference and the guides: `make docs`.

The source folder is the root of the repository, so that the guides are pages
where they lie, and their relative links lead to each other.
"""

import argparse
import builtins
import dataclasses
import functools
import importlib
import inspect
import io
import os
import pathlib
import re
import sys
import tokenize

from docutils import nodes
from sphinx import addnodes, roles
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

_ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["COLUMNS"] = "78"  # Width of the commands' help.

import delf  # noqa: E402
from delf.cli import main  # noqa: E402

project = "delf"
version = release = delf.__version__
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "delf/**.md", "benchmarks/README.md"]
exclude_patterns = ["build", ".venv*"]
extensions = [
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
  "myst_parser",
]

# Dashes; quoted text may be typed as it stands.
smartquotes_action = "D"

html_theme = "furo"
html_title = f"delf {version}"
html_extra_path = ["extra"]  # Leads from the top of the output to the root.
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False

myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]

default_role = "public"  # Names in backquotes, in docstrings.
python_use_unqualified_type_names = True
maximum_signature_line_length = 60
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True


class _Modules(SphinxDirective):
  """List of the original's modules and their public functions."""

  def run(self):
    lines = []
    for name, path in delf._MODULES.items():
      lines += [f"``delf.{name}``", f"   ``{path}``", ""]
      if path.endswith("_pb2"):
        lines += ["   Generated from the ``.proto`` file beside it.", ""]
        continue
      module = importlib.import_module(path)
      summary = inspect.getdoc(module).partition("\n\n")[0].replace("\n", " ")
      functions = ", ".join(f"``{each}``" for each in _public(module))
      lines += [f"   {summary}", "", f"   {functions}", ""]
    return self.parse_text_to_nodes("\n".join(lines))


def _public(module):
  return [
    name
    for name, value in vars(module).items()
    if not name.startswith("_")
    and (inspect.isfunction(value) or inspect.isclass(value))
    and value.__module__ == module.__name__
  ]


class _Commands(SphinxDirective):
  """The help of each command, a section each."""

  def run(self):
    parser = main.make_parser(whole=True)
    return list(self._sections(parser))

  def _sections(self, parser):
    for action in parser._actions:
      if isinstance(action, argparse._SubParsersAction):
        for command in action.choices.values():
          section = nodes.section(ids=[nodes.make_id(command.prog)])
          section += nodes.title(text=command.prog)
          text = command.format_help()
          section += nodes.literal_block(text, text, language="text")
          section += list(self._sections(command))
          self.state.document.note_explicit_target(section)
          yield section


class _Public(roles.XRefRole):
  """Text in backquotes: code, and a link where it is a public name."""

  def run(self):
    first = self.target.removeprefix("delf.").partition(".")[0]
    if first in delf._FACE:
      return super().run()
    return [nodes.literal(self.rawtext, self.target)], []

  def process_link(self, env, refnode, has_explicit_title, title, target):
    refnode["refdomain"], refnode["reftype"] = "py", "obj"
    refnode["py:module"] = "delf"
    return title, target


@functools.cache
def _field_comments(cls):
  """Return the comments of a dataclass's fields: those beside and above."""
  comments = {}
  source = inspect.getsource(cls)
  lines = source.splitlines()
  by_line = {
    token.start[0]: token
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }

  def text(token):
    return re.sub(r"^#:?\s*", "", token.string)

  for number, line in enumerate(lines, 1):
    field = re.match(r"  (\w+): ", line)
    if not field or field[1] not in cls.__annotations__:
      continue
    above = []
    row = number - 1
    while row in by_line and lines[row - 1].lstrip().startswith("#"):
      above.insert(0, text(by_line[row]))
      row -= 1
    beside = by_line.get(number)
    if beside is not None and not text(beside).startswith(("type:", "noqa")):
      above.append(text(beside))
    comments[field[1]] = " ".join(above)
  return comments


def _object(path):
  """Return what a dotted path such as "delf.Match.score" names."""
  parts = path.split(".")
  for end in range(len(parts), 0, -1):
    try:
      value = importlib.import_module(".".join(parts[:end]))
    except ModuleNotFoundError:
      continue
    for part in parts[end:]:
      value = getattr(value, part)
    return value
  raise LookupError(path)


def _describe_fields(app):
  """Give autodoc the comments of fields, as if they began with `#:`."""
  for page in sorted((_ROOT / "docs" / "reference").glob("*.rst")):
    for path in re.findall(r"autoclass:: (\S+)", page.read_text()):
      for cls in _object(path).__mro__:
        if dataclasses.is_dataclass(cls):
          analyzer = ModuleAnalyzer.for_module(cls.__module__)
          analyzer.analyze()
          for field, comment in _field_comments(cls).items():
            if comment:
              # Napoleon takes text before a colon in the first line as a type.
              analyzer.attr_docs[cls.__qualname__, field] = ["\\", comment, ""]


def _drop_parameters(app, domain, kind, content):
  """Leave out the constructor's parameters of dataclasses, as above."""
  signature = content.parent[0]
  if domain == "py" and kind == "class":
    path = f"{signature['module']}.{signature['fullname']}"
    if dataclasses.is_dataclass(_object(path)):
      app.env.current_document.autodoc_annotations.pop(path, None)


def _shorten_signature(app, what, name, value, options, arguments, result):
  """Leave out the constructor of dataclasses, whose fields follow."""
  if what == "class" and dataclasses.is_dataclass(value):
    return "", result
  if arguments:
    arguments = re.sub(r"<function \w+( at 0x\w+)?>", "...", arguments)
  return arguments, result


def _skip_private(app, what, name, value, skip, options):
  return True if name.startswith("_") else None


def _find_public_name(app, env, node, content):
  """Lead a reference to `delf.x.y.Match` to `delf.Match`."""
  target = node.get("reftarget", "")
  name = target.rpartition(".")[2]
  if target == f"{delf._FACE.get(name)}.{name}":
    return env.get_domain("py").resolve_xref(
      env, node["refdoc"], app.builder, "class", f"delf.{name}", node, content
    )
  return None


def _unlink_builtins(app, doctree):
  """Keep types such as `bytes` from leading to fields of that name."""
  for node in doctree.findall(addnodes.pending_xref):
    if node.get("refdomain") == "py" and hasattr(builtins, node["reftarget"]):
      node["reftarget"] = f"builtins.{node['reftarget']}"


def setup(app):
  """Register the directives and hooks above."""
  for field in PyObject.doc_field_types:
    if field.name == "variable":
      field.label = "Attributes"
  app.add_directive("delf-modules", _Modules)
  app.add_directive("delf-commands", _Commands)
  app.add_role("public", _Public())
  app.connect("builder-inited", _describe_fields)
  app.connect("object-description-transform", _drop_parameters, priority=100)
  app.connect("autodoc-process-signature", _shorten_signature)
  app.connect("autodoc-skip-member", _skip_private)
  app.connect("doctree-read", _unlink_builtins)
  app.connect("missing-reference", _find_public_name)
