"""What a search compares, and which parts of an index that needs."""

from delf.python import errors
from delf.python.pipelines import index_parts

# The parts of the index that each method needs, the first of them for names.
NEEDED = {
  "global": (index_parts.GLOBAL,),
  "words": (index_parts.WORDS,),
  "fusion": (index_parts.GLOBAL, index_parts.WORDS),
}


def choose(options, kinds, folder):
  """Returns the method, after checking that a collection is for it.

  Args:
    options: search.SearchOptions.
    kinds: Names of the parts that the collection has.
    folder: Of the collection, for errors.

  Raises:
    InputError: If a part is missing, or the method has no such refinement.
  """
  method = options.method
  if method is None:
    method = "global" if index_parts.GLOBAL in kinds else "words"
  for name in NEEDED[method]:
    if name not in kinds:
      raise errors.InputError(
        f"an index of {name} for --method {method}"
        + (" (delf index --codebook)" if name == "words" else ""),
        f"one of {', '.join(kinds) or 'nothing'}",
        folder,
      )
  if method == "words" and (options.expand or options.refine):
    raise errors.InputError(
      "--method global or fusion with --expand or --refine", method
    )
  return method
