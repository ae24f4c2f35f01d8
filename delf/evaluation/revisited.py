"""Ground truth files of Revisited Oxford and Paris.

`delf.python.datasets.revisited_op.dataset` offers these functions under the
original's names.
"""

import os
from collections.abc import Sequence

import numpy as np

from delf.base import errors
from delf.formats import untrusted

LABELS = ("easy", "hard", "junk")

_LISTS = ("imlist", "qimlist", "gnd")


def read(
  dataset_file_path: str | os.PathLike,
) -> tuple[list[str], list[str], list[dict[str, np.ndarray]]]:
  """Read the ground truth of a data set.

  Args:
    dataset_file_path: `.pkl` file, which is read without running what it may
      hold; any other name is a Matlab file's.

  Returns:
    Names of queries and of index images, without extension, and one dict a
    query: those of "easy", "hard", "junk" that the file has ([n], ids from 0;
    float64 in the usual `.mat` file, int64 in a `.pkl` file) and "bbx" ([4]
    float64, x1, y1, x2, y2 in pixels).
  """
  path = dataset_file_path
  if os.fspath(path).lower().endswith((".pkl", ".pickle")):
    return parse(read_pickle(path), 0, path)
  content = untrusted.read_mat(path, _LISTS)
  for name in _LISTS:
    if not isinstance(content.get(name), list):
      received = "another kind" if name in content else "none"
      raise errors.InputError(f"a list '{name}'", received, path)
  return parse(content, 1, path)


def parse(
  content: dict, first_id: int, path: str | os.PathLike
) -> tuple[list[str], list[str], list[dict[str, np.ndarray]]]:
  """Check the lists "imlist", "qimlist" and "gnd" of a file; see `read`.

  Args:
    first_id: The id of the first image in the file, 0 or 1.
    path: File, for errors.
  """
  queries, index = list(content["qimlist"]), list(content["imlist"])
  for name in [*queries, *index]:
    if not isinstance(name, str):
      raise errors.InputError(
        "names of images", f"a {type(name).__name__}", path
      )
  entries = list(content["gnd"])
  if len(queries) != len(entries):
    raise errors.InputError(
      f"ground truth of {len(queries)} queries", f"{len(entries)}", path
    )
  entries = [
    _parse_entry(entry, first_id, len(index), f"query {i} ('{name}')", path)
    for i, (name, entry) in enumerate(zip(queries, entries, strict=True), 1)
  ]
  return queries, index, entries


def read_pickle(path: str | os.PathLike) -> dict:
  """Read a pickle with the three lists; what they hold is not checked."""
  content = untrusted.read_plain_pickle(path)
  if not isinstance(content, dict) or not all(
    isinstance(content.get(key), (list, tuple)) for key in _LISTS
  ):
    raise errors.InputError(
      f"a dict with the lists {', '.join(_LISTS)}", "another content", path
    )
  return content


def split_protocols(ground_truth: Sequence[dict]) -> tuple[list[dict], ...]:
  """Split ground truth into the protocols easy, medium and hard.

  Easy looks for the easy images and leaves the hard ones out, medium looks for
  both, hard for the hard ones only.

  Args:
    ground_truth: Dicts as `read` returns; a missing label counts as empty.

  Returns:
    (easy, medium, hard): lists of dicts with "ok" and "junk", [n] ids in the
    order easy or junk first, then what is added.
  """
  protocols = [], [], []
  for i, entry in enumerate(ground_truth):
    if not {"easy", "hard"} & set(entry):
      raise errors.InputError(
        f"'easy' and 'hard' of query {i + 1}", ", ".join(entry) or "nothing"
      )
    easy, hard, junk = (_id_array(entry.get(label, ())) for label in LABELS)
    for protocol, positives, left_out in zip(
      protocols,
      ([easy], [easy, hard], [hard]),
      ([junk, hard], [junk], [junk, easy]),
      strict=True,
    ):
      protocol.append(
        {"ok": np.concatenate(positives), "junk": np.concatenate(left_out)}
      )
  return protocols


def _parse_entry(entry, first_id, size, query, path):
  """Labels and box of a query, with ids from 0 that are below `size`."""
  if not isinstance(entry, dict):
    raise errors.InputError(f"labels of {query}", "something else", path)
  if "ok" in entry and "easy" not in entry:
    raise errors.InputError(
      "ground truth of a Revisited data set, with 'easy' and 'hard'",
      "'ok', as the older Oxford5k and Paris6k have",
      path,
    )
  try:
    parsed = {key: _id_array(entry[key]) for key in LABELS if key in entry}
    box = np.array(_flat(entry.get("bbx", np.zeros(4))), np.float64)
  except (TypeError, ValueError, OverflowError):
    raise errors.InputError(
      f"ids of images and a box for {query}", "something else", path
    ) from None
  for label, ids in parsed.items():
    wrong = ~((ids >= first_id) & (ids < first_id + size) & (ids % 1 == 0))
    if wrong.any():
      raise errors.InputError(
        f"ids of the {size} index images in '{label}' of {query}",
        f"{ids[wrong][0] - float(first_id):g} (from 0)",
        path,
      )
    parsed[label] = ids - ids.dtype.type(first_id)
  if box.shape != (4,) or not np.isfinite(box).all():
    raise errors.InputError(f"four numbers in 'bbx' of {query}", "other", path)
  if "bbx" in entry:
    parsed["bbx"] = box
  return parsed


def _id_array(values):
  """Ids as an array [n] of the type that they have, int64 if there are none."""
  array = np.asarray(_flat(values)).reshape(-1)
  if not array.size and not isinstance(values, np.ndarray):
    return array.astype(np.int64)
  if array.dtype.kind not in "iuf":
    raise TypeError(array.dtype)
  return array


def _flat(values):
  """Values; nested lists are refused, since they hide their size.

  A pickle can hold one list many times inside another, and so forth.
  """
  if isinstance(values, (list, tuple)):
    for value in values:
      if isinstance(value, (list, tuple, dict)):
        raise TypeError("a list in a list")
  return values
