"""Examples in the docstrings of the public functions give what they show."""

import doctest
import inspect
import re

import pytest

import delf

_FLAGS = (
  doctest.ELLIPSIS
  | doctest.NORMALIZE_WHITESPACE
  | doctest.IGNORE_EXCEPTION_DETAIL
)
# Examples that take a second or less, without a model.
_QUICK = {
  "Hit",
  "InputError",
  "fit_codebook",
  "fit_whitening",
  "info",
  "sample_photos",
  "train",
  "train_detector",
}


def _examples():
  """Yield each public function, class and method with an example."""
  finder = doctest.DocTestFinder(recurse=False)
  for name in delf._FACE:
    value = getattr(delf, name)
    members = {name: value}
    if inspect.isclass(value):
      for member, method in vars(value).items():
        if not member.startswith("_"):
          members[f"{name}.{member}"] = getattr(method, "__func__", method)
    for path, member in members.items():
      # The public names alone, as a user has them.
      for example in finder.find(member, path, globs={}):
        if example.examples:
          marks = () if path in _QUICK else pytest.mark.slow
          yield pytest.param(example, id=path, marks=marks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """One folder for all, in which sample photos and indexes stay."""
  return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("example", list(_examples()))
def test_example(example, folder, monkeypatch):
  monkeypatch.chdir(folder)
  report = []
  runner = doctest.DocTestRunner(optionflags=_FLAGS)
  result = runner.run(example, out=report.append)
  assert result.failed == 0, "".join(report)
  assert re.match(r"import delf\n", example.examples[0].source)
