"""Postings as the arrays of an index file, checked when they come back."""

import numpy as np

from delf.python import errors
from delf.python.retrieval import asmk_scores, index_file, postings


def arrays(merged, word_counts, options):
  """Returns the arrays of a file; the large ones are written in pieces.

  Args:
    merged: posting_merge.Merge.
    word_counts: [N] int32, words of each image.
    options: asmk_scores.AsmkOptions.

  Returns:
    dict for index_file.write: `word_counts`, `words`, `starts`, `ids` and
    `descriptors`, as in postings.Postings.
  """
  number, width, dtype = len(merged), options.width, options.dtype
  return {
    "word_counts": word_counts,
    "words": merged.words,
    "starts": merged.starts,
    "ids": index_file.Stream(np.uint32, (number,), merged.ids()),
    "descriptors": index_file.Stream(
      dtype, (number, width), merged.descriptors(width, dtype)
    ),
  }


def options(header, path):
  """Returns the options and metadata in the header of a file.

  Raises:
    InputError: If there are none, or they cannot be.
  """
  try:
    found = asmk_scores.AsmkOptions(**header["options"])
    metadata = dict(header["metadata"])
  except (KeyError, TypeError, ValueError) as error:
    raise errors.InputError(
      "an inverted index with its options", errors.one_line(error), path
    ) from None
  return found, metadata


def opened(found, images, options, path):
  """Returns what `arrays` wrote.

  Args:
    found: dict of name -> array, of index_file.read.
    images: Number of images, N.
    options: asmk_scores.AsmkOptions.
    path: The file.

  Returns:
    [N] int32 words of each image, and postings.Postings, whose ids and
    descriptors stay in the file and are not looked at.

  Raises:
    InputError: If they do not fit together.
  """
  number = len(found["ids"]) if np.ndim(found.get("ids")) else 0
  words = len(found["words"]) if np.ndim(found.get("words")) else 0
  expected = {
    "word_counts": (np.int32, (images,)),
    "words": (np.int32, (words,)),
    "starts": (np.int64, (words + 1,)),
    "ids": (np.uint32, (number,)),
    "descriptors": (options.dtype, (number, options.width)),
  }
  for name, (dtype, shape) in expected.items():
    array = found.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
      raise errors.InputError(
        f"{name} of shape {list(shape)}",
        "none" if array is None else f"{array.dtype} {list(array.shape)}",
        path,
      )
  counts, words, starts = (
    np.array(found[name]) for name in ("word_counts", "words", "starts")
  )
  _check(counts, words, starts, number, options.codebook_size, path)
  # A plain view, as memmap's own indexing takes time.
  ids, descriptors = (
    found[name].view(np.ndarray) for name in ("ids", "descriptors")
  )
  return counts, postings.Postings(
    words, starts, ids, descriptors, images, path
  )


def _check(counts, words, starts, number, codebook_size, path):
  ascend = np.all(words[:-1] < words[1:])
  inside = not len(words) or 0 <= words[0] <= words[-1] < codebook_size
  follow = starts[0] == 0 and starts[-1] == number
  if not (ascend and inside and follow and np.all(starts[:-1] < starts[1:])):
    raise errors.InputError("lists that follow each other", "others", path)
  if np.any(counts < 0) or counts.sum(dtype=np.int64) != number:
    raise errors.InputError(
      f"{number} words in all images", f"{counts.sum(dtype=np.int64)}", path
    )
