"""Counts words and phrases that the style of the project rules out.

  python tools/language.py [FOLDER]            a count of each rule
  python tools/language.py [FOLDER] --show     each place too
  python tools/language.py --show delf/search  of one package or file

Searched are docstrings, comments, strings and names in `delf/`, without tests
and generated code, and lines of guides. Modules of the original are included.
"""

import argparse
import ast
import io
import pathlib
import re
import sys
import tokenize

_HERE = pathlib.Path(__file__).resolve().parent.parent
_GUIDES = ("*.md", "docs/*.md", "delf/**/*.md", "notebooks/*.ipynb")
# Model cards beside models are part of their fingerprint.
_KEPT = "delf/embedded/"

# Names that do not say what they hold.
NAMES = {
  "found", "told", "asked", "there", "given", "whose", "wanted", "shown",
}  # fmt: skip

# Pattern of each rule; every match counts.
PHRASES = {
  '"what ..." as a noun': r"\bwhat (?!is (?:this|that)\?)\w+",
  '"expected X, received Y"': r"\bexpected [^.]{1,200}?, (?:received|found)\b",
  '"expected ..., none" formula': r"\bexpected (?:a|an|one|the)\b",
  '"go on" for resume': r"\b(?:goes|going|go|went) on\b",
  '"told", "asked" and "ask"': r"\b(?:told|asked|asks|ask|asking)\b",
  '"so many"': r"\b(?:of|for|as|after|before) so many\b",
  '"as there"': r"\bas there\b",
  "stranded preposition": r"\b(?:is|are|was|were|lies|come|comes) (?:of|for|in|"
  r"from|with|by|about)(?=[.,;:)]|$)",
  '"such" as a pronoun': r"\b(?:no|any|as) such\b(?! as)(?=[.,;:)]|$)",
  '"these", "those" alone': r"\b(?:these|those)(?=[.,;:)]|$)",
  '"let go", "look at what"': r"\blets? go of\b|\blooks? what\b",
}
_FORMULA = '"expected X, received Y" of an error class'
_PATTERNS = {
  rule: re.compile(pattern, re.I) for rule, pattern in PHRASES.items()
}


def _text_of(token):
  if token.type == tokenize.COMMENT:
    return token.string.lstrip("#! ")
  if token.type == tokenize.STRING or token.type in _PARTS_OF_F_STRINGS:
    return token.string
  return ""


# From Python 3.12 on, the text of f-strings has a token of its own.
_PARTS_OF_F_STRINGS = {
  getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING),
}


def blocks(path):
  """Yield (line, text) of each run of comments, string and docstring."""
  source = path.read_text(encoding="utf-8")
  held, start, last = [], 0, 0
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    text = _text_of(token)
    is_blank = token.type in (tokenize.NL, tokenize.NEWLINE) and held
    if text:
      if held and token.start[0] > last + 1:
        yield start, " ".join(held)
        held = []
      start = start if held else token.start[0]
      held.append(" ".join(text.split()))
      last = token.end[0]
    elif held and not is_blank and token.type == tokenize.NAME:
      yield start, " ".join(held)
      held = []
  if held:
    yield start, " ".join(held)


def names(path):
  """Yield (line, name) of each ruled-out name that is assigned."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      name = node.id
    elif isinstance(node, ast.arg):
      name = node.arg
    else:
      continue
    if name in NAMES:
      yield node.lineno, name


def formulas(path):
  """Yield (line, call) of each InputError with several arguments."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Call) and len(node.args) > 1:
      name = ast.unparse(node.func)
      if name.endswith("InputError"):
        yield node.lineno, name


def _sources(root):
  for path in sorted((root / "delf").rglob("*.py")):
    if not path.name.endswith(("_test.py", "_pb2.py")):
      yield path
  for pattern in _GUIDES:
    for path in sorted(root.glob(pattern)):
      if not path.relative_to(root).as_posix().startswith(_KEPT):
        yield path


def places(root, inside=None):
  """Yield (rule, path, line, text) of each place that breaks a rule."""
  for path in _sources(root):
    shown = path.relative_to(root)
    if inside and not (shown == inside or inside in shown.parents):
      continue
    if path.suffix == ".py":
      for line, name in names(path):
        yield "name", shown, line, name
      for line, name in formulas(path):
        yield _FORMULA, shown, line, name
      found = blocks(path)
    else:
      lines = path.read_text(encoding="utf-8").splitlines()
      found = enumerate(lines, 1)
    for line, text in found:
      for rule, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
          around = text[max(0, match.start() - 30) : match.end() + 30]
          yield rule, shown, line, around


def main():
  """Print the counts, and with --show the places; return 0."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", nargs="?", type=pathlib.Path, default=_HERE)
  parser.add_argument(
    "--show", nargs="?", const=pathlib.Path("."), type=pathlib.Path
  )
  args = parser.parse_args()
  inside = None if args.show in (None, pathlib.Path(".")) else args.show
  counts = dict.fromkeys(["name", _FORMULA, *PHRASES], 0)
  for rule, path, line, text in places(args.folder.resolve(), inside):
    counts[rule] += 1
    if args.show:
      print(f"{path}:{line}: {rule}: ...{text}...")
  for rule, number in counts.items():
    print(f"{number:6}  {rule}")
  print(f"{sum(counts.values()):6}  in all")
  return 0


if __name__ == "__main__":
  sys.exit(main())
