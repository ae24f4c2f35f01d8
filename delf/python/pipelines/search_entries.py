"""What is compared of each query of a search."""

from delf.python import errors
from delf.python.pipelines import (
  extract_report,
  finite_features,
  index_parts,
)


def read(queries, parts):
  """Reads what is compared of each query.

  Args:
    queries: list of queries.Query.
    parts: dict of name to index_parts.Part: those that are searched.

  Returns:
    list of Query that can be searched with, list of dict of part name to what
    its index takes, and list of extract_report.Failure.
  """
  good, entries, failed = [], [], []
  for query in queries:
    try:
      entries.append(_read(query, parts))
      good.append(query)
    except (errors.InputError, OSError) as error:
      line = errors.one_line(error)
      failed.append(extract_report.Failure(query.photo or query.name, line))
  return good, entries, failed


def _read(query, parts):
  entry = {}
  if index_parts.GLOBAL in parts:
    part = parts[index_parts.GLOBAL]
    found = part.whitened(query.global_descriptor())
    if not found.size:
      raise errors.InputError(
        "a photo large enough for a global descriptor", "one that is not"
      )
    entry[index_parts.GLOBAL] = found
  if index_parts.WORDS in parts:
    part = parts[index_parts.WORDS]
    path = query.local_path(part.extension)
    local = finite_features.read_local(path)
    if not len(local):
      raise errors.InputError("local features", "none")
    entry[index_parts.WORDS] = part.aggregate(local.descriptors)
  return entry
