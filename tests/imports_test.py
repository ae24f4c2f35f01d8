"""Imports are cheap, go one way, and need no more than what is declared."""

import ast
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SOURCES = [
  path
  for path in sorted((_ROOT / "delf").rglob("*.py"))
  if not path.name.endswith("_test.py")
]
# Packages that few need and that are slow or noisy to import.
_RARE = ("tf_slim", "tensorflow_probability")
_IMPORT_ALL = f"""
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
print([name for name in {_RARE!r} if name in sys.modules])
"""
_THIRD_PARTY = """
import sys
before = set(sys.modules)
import delf
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - set(sys.stdlib_module_names) - {"delf"}))
"""


def _run(*arguments, environment=None):
  result = subprocess.run(
    [sys.executable, *arguments],
    cwd=_ROOT,
    env={**os.environ, "PYTHONPATH": str(_ROOT), **(environment or {})},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stdout + result.stderr
  return result.stdout.strip()


def _module(path):
  parts = list(path.relative_to(_ROOT).with_suffix("").parts)
  if parts[-1] == "__init__":
    parts.pop()
  return ".".join(parts)


def _imports(path, everywhere):
  """Yields the top-level names that a file imports.

  Args:
    path: Path of the file.
    everywhere: Whether imports inside functions count too.
  """
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree) if everywhere else tree.body:
    if isinstance(node, ast.Import):
      yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield node.module.partition(".")[0]


def _declared():
  """Returns the names of the packages that pyproject.toml declares."""
  text = (_ROOT / "pyproject.toml").read_text()
  block = re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)[1]
  return set(re.findall(r'^\s*"([\w-]+)', block, re.M))


def test_import_delf_loads_nothing_of_others():
  assert _run("-c", _THIRD_PARTY) == "[]"


@pytest.mark.slow
def test_every_module_imports_without_the_rare_packages():
  names = [_module(path) for path in _SOURCES if path.name != "__main__.py"]
  assert len(names) > 30
  assert _run("-c", _IMPORT_ALL, *names).splitlines()[-1] == "[]"


def test_help_loads_no_tensorflow():
  code = (
    "import sys; from delf.cli import main\n"
    "try: main.main(['--help'])\n"
    "except SystemExit: pass\n"
    "print('tensorflow' in sys.modules, 'keras' in sys.modules)"
  )
  assert _run("-c", code).splitlines()[-1] == "False False"


# Packages whose modules load no TensorFlow, and two scripts of training.
_LIGHT = (
  "base", "formats", "embedded", "extraction", "matching", "aggregation",
  "indexes", "pictures", "search", "evaluation", "downloads", "cli",
)  # fmt: skip
_SCRIPTS = (
  "delf.python.training.train",
  "delf.python.training.global_features.train",
)
_LOADED_BY = """
import importlib, sys
for name in sys.argv[1:]:
  importlib.import_module(name)
print({"tensorflow", "keras"} & set(sys.modules))
"""


def test_packages_and_scripts_load_no_tensorflow():
  modules = [
    _module(path)
    for path in _SOURCES
    if path.parent.parent == _ROOT / "delf" and path.parent.name in _LIGHT
  ]
  assert len(modules) > 50
  assert _run("-c", _LOADED_BY, *modules, *_SCRIPTS) == "set()"


def _modules(package):
  """Returns the top-level names of an installed package's modules."""
  paths = importlib.metadata.files(package)
  return {
    path.parts[0].removesuffix(".py") for path in paths if path.suffix == ".py"
  }


def test_each_package_that_is_imported_is_declared():
  known = {"delf", *sys.stdlib_module_names}
  known |= set().union(*map(_modules, _declared()))
  # Of extras, which need not be installed.
  known |= {name.replace("-", "_") for name, _ in _declared_extras()}
  for path in _SOURCES:
    unknown = set(_imports(path, everywhere=True)) - known
    assert not unknown, f"{path}: not declared: {unknown}"


def _explained():
  """Returns (core, {(package, extra)}) as docs/DEPENDENCIES.md has them."""
  text = (_ROOT / "docs" / "DEPENDENCIES.md").read_text()
  core, _, extras = text.partition("\n## Extras\n")
  rows = re.findall(r"^\| `([\w-]+)` \| ([\w-]+) \|", extras, re.M)
  return set(re.findall(r"^\| `([\w-]+)`", core, re.M)), set(rows)


def _declared_extras():
  """Returns {(package, extra)} of pyproject.toml."""
  text = (_ROOT / "pyproject.toml").read_text()
  block = re.search(
    r"^\[project\.optional-dependencies\]\n(.*?)^\[", text, re.M | re.S
  )[1]
  extras = re.findall(r"^(\w+) = \[(.*?)\]$", block, re.M | re.S)
  return {
    (package, extra)
    for extra, lines in extras
    for package in re.findall(r'"([\w-]+)', lines)
  }


def test_declared_packages_are_those_that_are_explained():
  core, extras = _explained()
  assert _declared() == core
  assert _declared_extras() == extras


def test_packages_that_users_of_the_original_expect_are_declared():
  # With what they need and do not declare themselves.
  assert _declared() >= {
    "tensorflow", "tf-slim", "protobuf", "numpy", "scipy", "scikit-image",
    "matplotlib", "pillow", "absl-py", "tensorflow-probability", "tf-keras",
    "setuptools", "tensorboard",
  }  # fmt: skip


def test_packages_have_an_init_file():
  for path in _SOURCES:
    assert (path.parent / "__init__.py").exists(), path.parent


def test_every_module_has_its_layer():
  rules = (_ROOT / ".importlinter").read_text()
  block = re.search(r"^layers =\n(( .*\n)+)", rules, re.M)[1]
  layers = re.findall(r"delf\.[\w.]+", block)
  for path in _SOURCES:
    module = _module(path)
    if path.name == "__init__.py" or not module.startswith("delf.python"):
      continue
    assert any(f"{module}.".startswith(f"{layer}.") for layer in layers), module


def test_imports_go_one_way():
  if importlib.util.find_spec("importlinter") is None:
    pytest.skip("import-linter is not installed")
  code = (
    "import sys; sys.path.insert(0, '.'); from importlinter import cli; "
    "sys.exit(cli.lint_imports(no_cache=True))"
  )
  _run("-c", code)
