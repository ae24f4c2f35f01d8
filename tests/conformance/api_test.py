"""Public names, signatures, defaults and base classes are as users know them.

Each entry of `api.json` is a module and its names: `Name(parameters)`,
`Class.method(parameters)`, `class Name(base)`, `NAME = value`, or a bare name
that the module re-exports. A signature may be widened at its end.
"""

import ast
import importlib
import inspect

import pytest
import tables

_PENDING = tables.pending("names")


def _entries():
  for module, entries in tables.load("api").items():
    if module in _PENDING:
      continue
    yield pytest.param(module, None, id=module)
    for entry in entries:
      name = entry.removeprefix("class ").split("(")[0].split(" ")[0]
      if f"{module}:{name}" not in _PENDING:
        yield pytest.param(module, entry, id=f"{module}:{entry[:60]}")


def _resolve(dotted):
  """Returns the object of a dotted name: module, then attributes."""
  module, _, name = dotted.rpartition(".")
  return getattr(importlib.import_module(module), name)


def _parse(signature):
  """Returns [(parameter, default node or None)] of a signature's text."""
  parameters = signature[signature.index("(") :]
  arguments = ast.parse(f"def f{parameters}: pass").body[0].args
  missing = len(arguments.args) - len(arguments.defaults)
  defaults = [None] * missing + arguments.defaults
  return [
    (argument.arg, default)
    for argument, default in zip(arguments.args, defaults, strict=True)
  ]


def _check_signature(function, signature):
  function = getattr(function, "python_function", function)  # tf.function
  actual = list(inspect.signature(function).parameters.values())
  expected = _parse(signature)
  names = [parameter.name for parameter in actual[: len(expected)]]
  assert names == [name for name, _ in expected]
  for parameter, (name, default) in zip(actual, expected, strict=False):
    assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD, name
    if default is None:
      assert parameter.default is parameter.empty, name
    elif isinstance(default, ast.Name):
      assert parameter.default.__name__ == default.id, name
    else:
      value = ast.literal_eval(default)
      assert parameter.default == value, name
      assert isinstance(parameter.default, bool) == isinstance(value, bool)
  for parameter in actual[len(expected) :]:
    variadic = parameter.kind in (
      parameter.VAR_POSITIONAL,
      parameter.VAR_KEYWORD,
    )
    assert variadic or parameter.default is not parameter.empty, (
      f"{parameter.name} is not in the signature and has no default"
    )


@pytest.mark.parametrize(("module", "entry"), list(_entries()))
def test_name_is_as_users_know_it(module, entry):
  loaded = importlib.import_module(module)
  if entry is None:
    return
  if entry.startswith("class "):
    name, _, base = entry.removeprefix("class ").rstrip(")").partition("(")
    found = getattr(loaded, name)
    assert inspect.isclass(found)
    assert not base or issubclass(found, _resolve(base))
  elif " = " in entry:
    name, value = entry.split(" = ")
    assert getattr(loaded, name) == ast.literal_eval(value)
  elif "(" in entry:
    found = loaded
    for part in entry.split("(")[0].split("."):
      found = getattr(found, part)
    assert callable(found)
    _check_signature(found, entry)
  else:
    assert getattr(loaded, entry).__name__.startswith("delf.")


# Older path of a module -> where it is.
_OLDER = {
  "delf.python.google_landmarks_dataset.dataset_file_io": (
    "delf.python.datasets.google_landmarks_dataset.dataset_file_io"
  ),
  "delf.python.google_landmarks_dataset.metrics": (
    "delf.python.datasets.google_landmarks_dataset.metrics"
  ),
  "delf.python.training.datasets.googlelandmarks": (
    "delf.python.datasets.google_landmarks_dataset.googlelandmarks"
  ),
  "delf.python.detect_to_retrieve.dataset": (
    "delf.python.datasets.revisited_op.dataset"
  ),
}


@pytest.mark.parametrize("older", _OLDER)
def test_an_older_path_has_the_same_names(older):
  entries = tables.load("api")[_OLDER[older]]
  names = {entry.split("(")[0].split(" ")[0] for entry in entries}
  assert names
  for name in names:
    same = getattr(importlib.import_module(_OLDER[older]), name)
    assert getattr(importlib.import_module(older), name) is same


def test_the_signature_check_tells_what_is_not_compatible():
  def narrowed(a):
    pass

  def renamed(a, c=1):
    pass

  def other_default(a, b=2):
    pass

  def needs_more(a, b=1, *, c):
    pass

  def widened(a, b=1, c=None, **options):
    pass

  _check_signature(widened, "f(a, b=1)")
  for function in (narrowed, renamed, other_default, needs_more):
    with pytest.raises(AssertionError):
      _check_signature(function, "f(a, b=1)")


def test_delf_offers_what_exists_and_nothing_else():
  import delf

  names = set(tables.load("api")["delf"])
  built = {name for name in names if f"delf:{name}" not in _PENDING}
  # The public functions are in a list of their own: tests/public_names.txt.
  assert set(delf.__all__) - set(delf._FACE) == built
  for name in sorted(names - built):
    assert not hasattr(delf, name)
