"""What is in an index file."""

import numpy as np

from delf.python.retrieval import index_file


def index(path):
  """Returns what an index holds, from its header and names.

  What images have is not read, so that this is quick however large the file;
  nor are checksums compared, but for that of the header.

  Args:
    path: pathlib.Path of the file.

  Returns:
    dict: `kind`, `bytes`, `format`, `images` (number) and the `first` and
    `last` of them by name; for an inverted index `words_of_an_image`, [fewest,
    most]; `settings`; and `arrays` (name -> dtype and shape).

  Raises:
    InputError: If it is cut, changed, or of a newer version.
  """
  about = index_file.describe(path)
  header, arrays = index_file.read(path, about["kind"])
  names = index_file.decode_names(arrays, path)
  found = {
    "kind": about["kind"],
    "bytes": about["bytes"],
    "format": about["version"],
    "images": len(names),
  }
  if names:
    found |= {"first": names[0], "last": names[-1]}
  if np.size(arrays.get("word_counts", [])):
    counts = arrays["word_counts"]
    found["words_of_an_image"] = [float(counts.min()), float(counts.max())]
  found["settings"] = header
  found["arrays"] = {
    name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()
  }
  return found
