"""Writes search results as one HTML page that needs nothing else."""

import base64
import dataclasses
import hashlib
import importlib.resources
import os

import delf
from delf.python import errors, files
from delf.python.page import evaluation as evaluation_markup
from delf.python.page import markup, thumbnails

_EXTENSIONS = (".html", ".htm")


@dataclasses.dataclass(frozen=True)
class Report:
  """What was written.

  Attributes:
    queries: Number of queries.
    results: Number of results of all of them.
    photos: Number of photos that the page holds.
    size: Size of the page, in bytes.
    problems: One line for each photo that could not be shown.
  """

  queries: int
  results: int
  photos: int
  size: int
  problems: tuple[str, ...]


def check_path(path):
  """Refuses a name that no page can have, before any work is done.

  Args:
    path: File to be.

  Raises:
    InputError: If it does not end in .html or .htm, or is a folder.
  """
  if not os.fspath(path).lower().endswith(_EXTENSIONS):
    raise errors.InputError("a name that ends in .html", os.fspath(path))
  if os.path.isdir(path):
    raise errors.InputError("a file or a new name", "a folder", path)


def write(path, title, queries, evaluation=None, options=None):
  """Writes a page of queries with their results.

  The page holds small copies of all photos, and fetches nothing. A photo that
  cannot be read is shown as missing, and reported. At any moment one query is
  in memory, beside a few bytes for each photo.

  Args:
    path: File to be, .html; written whole or not at all.
    title: Words for the head of the page.
    queries: Iterable of content.Query; each is written before the next is
      asked for.
    evaluation: content.Evaluation to show before them, or None.
    options: thumbnails.Options, or None for the defaults.

  Returns:
    Report.

  Raises:
    InputError: If the name is none for a page.
    OSError: If it cannot be written; it names the path.
  """
  check_path(path)
  photos = thumbnails.Thumbnails(options or thumbnails.Options())
  start, end = _frame(title)
  number = results = 0
  with files.atomic_path(path) as temporary:
    # A file name that is no UTF-8 is shown with its bytes as \udcXX.
    with open(
      temporary, "w", encoding="utf-8", errors="backslashreplace", newline="\n"
    ) as file:
      file.write(start)
      if evaluation is not None:
        file.write(evaluation_markup.section(evaluation))
      for number, query in enumerate(queries, 1):
        _write_query(file, number, query, photos)
        results += len(query.results)
      file.write(end)
    size = os.path.getsize(temporary)
  return Report(number, results, photos.number, size, tuple(photos.problems))


def _write_query(file, number, query, photos):
  """Writes what the page does not hold yet of a query's photos, and it."""
  small = []
  for path in (query.path, *(each.path for each in query.results)):
    thumbnail, data = photos.add(path)
    small.append(thumbnail)
    if data is not None:
      file.write(markup.photo(thumbnail, data))
  file.write(markup.query(number, query, small[0], small[1:]))


def _frame(title):
  """Returns what comes before and after the content of a page."""
  parts = {
    name: _resource(f"page.{name}").strip() for name in ("css", "js", "html")
  }
  # Of all scripts and styles the browser runs these two alone, by their hash.
  policy = (
    "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
    f"style-src {_hash(parts['css'])}; script-src {_hash(parts['js'])}"
  )
  values = {
    "POLICY": policy,
    "STYLE": parts["css"],
    "SCRIPT": parts["js"],
    "TITLE": markup.escape(title),
    "VERSION": markup.escape(delf.__version__),
  }
  # Cut first, filled after: what a value holds is never taken for a mark.
  pieces = parts["html"].split("%%")
  filled = [values.get(piece, piece) for piece in pieces]
  middle = pieces.index("CONTENT")
  return "".join(filled[:middle]), "".join(filled[middle + 1 :]) + "\n"


def _resource(name):
  folder = importlib.resources.files("delf.python.page")
  return (folder / name).read_text(encoding="utf-8")


def _hash(text):
  digest = hashlib.sha256(text.encode("utf-8")).digest()
  return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
