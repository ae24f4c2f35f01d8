"""Reading the ground truth files of Revisited Oxford and Paris."""

import os
import re
import sys

import numpy as np

from delf.base import errors, files
from delf.formats import untrusted

LABELS = ("easy", "hard", "junk")

_LISTS = ("imlist", "qimlist", "gnd")


def read(path):
  """Reads ground truth.

  Args:
    path: Path of a `.pkl` file, which is read without running what it may hold;
      any other name is a Matlab file's.

  Returns:
    (queries, index, ground_truth) as of `dataset.ReadDatasetFile`.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or names images that it does not list.
  """
  if os.fspath(path).lower().endswith((".pkl", ".pickle")):
    found, first = read_pickle(path), 0
  else:
    found, first = _read_matlab(path), 1
  return parse(found, first, path)


def parse(found, first, path):
  """Checks the content of a ground truth file.

  Args:
    found: dict with the lists "imlist", "qimlist" and "gnd".
    first: The id of the first image, 0 or 1.
    path: Path of the file, for errors.

  Returns:
    (queries, index, ground_truth) as of `dataset.ReadDatasetFile`.

  Raises:
    InputError: If it cannot be.
  """
  truth = [
    _truth(entry, first, i, path) for i, entry in enumerate(found["gnd"])
  ]
  queries, index = list(found["qimlist"]), list(found["imlist"])
  _check(queries, index, truth, path)
  return queries, index, truth


def read_pickle(path):
  """Reads a pickle of ground truth; its ids are not checked.

  Args:
    path: Path of the pickle.

  Returns:
    dict with at least the lists "imlist", "qimlist" and "gnd".

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another file.
  """
  found = untrusted.read_plain_pickle(path)
  if not (
    isinstance(found, dict)
    and all(isinstance(found.get(key), (list, tuple)) for key in _LISTS)
  ):
    raise errors.InputError(
      f"a dict with the lists {', '.join(_LISTS)}", "another content", path
    )
  return found


def ids(values):
  """Returns ids as an array: [n], of the type that they have, int64 if none."""
  array = np.asarray(_flat(values)).reshape(-1)
  if not array.size and not isinstance(values, np.ndarray):
    return array.astype(np.int64)
  if array.dtype.kind not in "iuf":
    raise TypeError(array.dtype)
  return array


def _flat(values):
  """Returns values; lists in lists are refused, for their size is hidden.

  In a pickle a list may be in another many times, and so forth.
  """
  if isinstance(values, (list, tuple)):
    for value in values:
      if isinstance(value, (list, tuple, dict)):
        raise TypeError("a list in a list")
  return values


def _read_matlab(path):
  found = untrusted.read(path, _LISTS)
  for name in _LISTS:
    if not isinstance(found.get(name), list):
      received = "another kind" if name in found else "none"
      raise errors.InputError(f"a list '{name}'", received, path)
  return found


def _truth(entry, first, query, path):
  """Returns the ground truth of one query; its ids start at `first`."""
  if not isinstance(entry, dict):
    raise errors.InputError(
      f"labels of query {query + 1}", "something else", path
    )
  if "ok" in entry and "easy" not in entry:
    raise errors.InputError(
      "ground truth of a Revisited data set, with 'easy' and 'hard'",
      "'ok', as the older Oxford5k and Paris6k have",
      path,
    )
  try:
    truth = {key: ids(entry[key]) for key in LABELS if key in entry}
    if "bbx" in entry:
      truth["bbx"] = np.array(_flat(entry["bbx"]), np.float64)
  except (TypeError, ValueError, OverflowError):
    raise errors.InputError(
      f"ids of images and a box for query {query + 1}", "something else", path
    ) from None
  for label, array in truth.items():
    if label in LABELS and first:
      if (array < first).any():
        raise errors.InputError(
          f"ids from {first} in '{label}' of query {query + 1}",
          f"{array.min():g}",
          path,
        )
      truth[label] = array - array.dtype.type(first)
  return truth


def _check(queries, index, ground_truth, path):
  """Refuses ground truth that cannot be."""
  for name in [*queries, *index]:
    if not isinstance(name, str):
      raise errors.InputError(
        "names of images", f"a {type(name).__name__}", path
      )
  if len(queries) != len(ground_truth):
    raise errors.InputError(
      f"ground truth of {len(queries)} queries", f"{len(ground_truth)}", path
    )
  for query, truth in zip(queries, ground_truth, strict=True):
    for label in LABELS:
      array = truth.get(label, np.zeros([0]))
      wrong = ~((array >= 0) & (array < len(index)) & (array % 1 == 0))
      if wrong.any():
        raise errors.InputError(
          f"ids of the {len(index)} index images in '{label}' of {query}",
          f"{array[wrong][0]:g} (from 0)",
          path,
        )
    box = truth.get("bbx", np.zeros([4]))
    if box.shape != (4,) or not np.isfinite(box).all():
      raise errors.InputError(
        f"four numbers in 'bbx' of {query}", "other", path
      )


# Times that ids may be beyond their number for a table of all to be made.
_SPARSE = 64


def AdjustPositiveRanks(positive_ranks, junk_ranks):
  """Returns the ranks that positives have once the junk is taken out.

  Args:
    positive_ranks: [P] int, 0-based ranks of the positives, ascending. (The
      original changes them; here they stay.)
    junk_ranks: [J] int, 0-based ranks of the junk.

  Returns:
    [P] int64.
  """
  positive_ranks = np.asarray(positive_ranks, np.int64)
  junk_ranks = np.sort(np.asarray(junk_ranks, np.int64))
  return positive_ranks - np.searchsorted(junk_ranks, positive_ranks)


def ComputeAveragePrecision(positive_ranks):
  """Computes the average precision of one query.

  Args:
    positive_ranks: [P] int, 0-based ranks of all positives, ascending, without
      junk.

  Returns:
    float in [0, 1]; 0 without positives.
  """
  return _average_precision(np.asarray(positive_ranks), len(positive_ranks))


def ComputePRAtRanks(positive_ranks, desired_pr_ranks):
  """Computes precision and recall of one query at given ranks.

  A rank beyond the last positive counts as the last positive's, so that a query
  with few positives can have a precision of 1.

  Args:
    positive_ranks: [P] int, 0-based ranks of all positives, without junk.
    desired_pr_ranks: [R] int, numbers of results to look at, from 1.

  Returns:
    (precisions, recalls), each [R] float64 in [0, 1]; 0 without positives.
  """
  return _pr_at_ranks(
    np.asarray(positive_ranks), len(positive_ranks), desired_pr_ranks
  )


def ComputeMetrics(sorted_index_ids, ground_truth, desired_pr_ranks):
  """Computes the metrics of a ranking under one protocol.

  Args:
    sorted_index_ids: [Q, N] int, or float that are whole; ids of index images,
      best first. A positive that is not among them counts as never found; -1
      stands for no image.
    ground_truth: list of Q dicts with "ok" and "junk", [n] int ids.
    desired_pr_ranks: [R] int, numbers of results to look at, from 1 to N.

  Returns:
    (mean_average_precision, mean_precisions [R], mean_recalls [R],
    average_precisions [Q], precisions [Q, R], recalls [Q, R]), float64 in
    [0, 1]. A query without positives has NaN, and is left out of the means;
    these are NaN where no query has positives.

  Raises:
    InputError: If the numbers of queries differ, a rank is beyond the ranking,
      an image stands twice in it, or the ground truth has negative ids.
  """
  ids = _checked_ranking(sorted_index_ids)
  ranks = _checked_ranks(ids, ground_truth, desired_pr_ranks)
  average_precisions = np.full([len(ids)], np.nan)
  precisions = np.full([len(ids), len(ranks)], np.nan)
  recalls = np.full([len(ids), len(ranks)], np.nan)
  for i, truth in enumerate(ground_truth):
    ok = np.unique(_checked_ids(truth["ok"], i))
    if not ok.size:
      continue
    found = positive_ranks(ids[i], ok, _checked_ids(truth["junk"], i), i)
    average_precisions[i] = _average_precision(found, len(ok))
    precisions[i], recalls[i] = _pr_at_ranks(found, len(ok), ranks)
  known = ~np.isnan(average_precisions)
  means = [
    values[known].mean(axis=0)
    if known.any()
    else np.full(values.shape[1:], np.nan)
    for values in (average_precisions, precisions, recalls)
  ]
  return float(means[0]), *means[1:], average_precisions, precisions, recalls


def positive_ranks(ids, ok, junk, query=0):
  """Finds the positives of one query in its ranking.

  Args:
    ids: [N] int, ids of index images, best first; negative ones stand for none.
    ok: [P] int, ids of the positives.
    junk: [J] int, ids of what is taken out first.
    query: Number of the query, for the error.

  Returns:
    [p] int64, ascending 0-based ranks without junk; p < P where positives are
    not in the ranking.

  Raises:
    InputError: If an image stands twice in the ranking.
  """
  valid = ids[ids >= 0].astype(np.int64)
  is_positive, is_junk, is_unique = _find(valid, ok, junk)
  if not is_unique:
    raise errors.InputError(
      f"each image once in the ranking of query {query}", "one twice"
    )
  return AdjustPositiveRanks(
    np.flatnonzero(is_positive), np.flatnonzero(is_junk)
  )


def _find(ids, ok, junk):
  """Returns which ids are in `ok` and in `junk`, and whether each is once."""
  size = ids.max(initial=-1) + 1
  if size > _SPARSE * len(ids):  # A few of many: sorting them is faster.
    unique = len(np.unique(ids)) == len(ids)
    return np.isin(ids, ok), np.isin(ids, junk), unique
  found = []
  for labelled in (ok, junk):
    table = np.zeros([size], bool)
    table[labelled[labelled < size]] = True
    found.append(table[ids])
  table = np.zeros([size], bool)
  table[ids] = True
  return *found, np.count_nonzero(table) == len(ids)


def _average_precision(ranks, number):
  """Averages precision over recall; what is not in `ranks` is never found."""
  found = np.arange(len(ranks))
  # Precision before and after each positive.
  before = np.divide(found, ranks, out=np.ones(len(ranks)), where=ranks > 0)
  after = (found + 1) / (ranks + 1)
  return float((before + after).sum() / 2 / number) if number else 0.0


def _pr_at_ranks(ranks, number, desired):
  desired = np.asarray(desired, np.int64)
  if not number:
    return np.zeros(len(desired)), np.zeros(len(desired))
  last = ranks.max() + 1 if len(ranks) == number else desired
  depth = np.minimum(desired, last)
  found = (ranks[:, None] < depth).sum(axis=0)
  return found / depth, found / number


def _checked_ranking(ids):
  """Returns ids as an int array [Q, N]; users' arrays may be float."""
  ids = np.asarray(ids)
  if ids.ndim == 2 and ids.dtype.kind == "f":
    with np.errstate(invalid="ignore"):  # NaN is no whole number.
      whole = ids.astype(np.int64)
    ids = whole if np.array_equal(whole, ids) else ids
  if ids.ndim != 2 or ids.dtype.kind not in "iu":
    raise errors.InputError(
      "ids of images, int [queries, images]", f"{ids.dtype} {list(ids.shape)}"
    )
  return ids


def _checked_ranks(ids, ground_truth, desired):
  if len(ids) != len(ground_truth):
    raise errors.InputError(
      f"ground truth of {len(ids)} queries, as ranked",
      f"that of {len(ground_truth)}",
    )
  desired = np.asarray(desired, np.int64)
  if desired.ndim != 1 or (desired < 1).any():
    raise errors.InputError("ranks from 1", f"{desired.tolist()}")
  if desired.max(initial=1) > ids.shape[1]:
    raise errors.InputError(
      f"ranks up to {ids.shape[1]}, the number of images", f"{desired.max()}"
    )
  return desired


def _checked_ids(ids, query):
  ids = np.asarray(ids)
  if not ids.size:
    return np.zeros([0], np.int64)
  whole = ids.astype(np.int64)
  if (whole != ids).any() or whole.min() < 0:
    raise errors.InputError(
      f"ids from 0 in the ground truth of query {query}",
      f"{ids[(whole != ids) | (whole < 0)][0]}",
    )
  return whole


_LIMIT = 2**24
_AT_RANKS = re.compile(r"  (m[PR])@k\[([\d\s]*)\]\s+\[([^\[\]]*)\]")


def SaveMetricsFile(
  mean_average_precision, mean_precisions, mean_recalls, pr_ranks, output_path
):
  """Writes metrics whole or not at all, in percent with two decimals.

  Long lists stay on one line. (The original's wrap, and its own reader rejects
  them then.)

  Args:
    mean_average_precision: dict by protocol of float in [0, 1].
    mean_precisions: dict by protocol of [R] float in [0, 1].
    mean_recalls: dict by protocol of [R] float in [0, 1].
    pr_ranks: [R] int.
    output_path: Path of the text file.

  Raises:
    InputError: If a protocol is missing in one of them.
    OSError: If the file cannot be written.
  """
  lines = []
  for protocol in sorted(mean_average_precision):
    for name, values in (("mP", mean_precisions), ("mR", mean_recalls)):
      if protocol not in values:
        raise errors.InputError(f"{name} of {protocol}", "none")
    lines += [
      f"{protocol}\n",
      f"  mAP={_percent(mean_average_precision[protocol])!s}\n",
      f"  mP@k{_text(pr_ranks)} {_text(_percent(mean_precisions[protocol]))}\n",
      f"  mR@k{_text(pr_ranks)} {_text(_percent(mean_recalls[protocol]))}\n",
    ]
  files.write_bytes(output_path, "".join(lines).encode())


def ReadMetricsFile(metrics_path):
  """Reads a metrics file, the original's too, also where its lists wrap.

  Args:
    metrics_path: Path of the text file.

  Returns:
    (mean_average_precision, pr_ranks, mean_precisions, mean_recalls): dict by
    protocol of float; [R] int64; dicts by protocol of [R] float64. All but the
    ranks in [0, 1].

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no metrics file, has a protocol twice, or other ranks
      for one protocol than for another.
  """
  lines = _lines(metrics_path)
  if not lines or len(lines) % 4:
    raise errors.InputError(
      "four lines for each protocol", f"{len(lines)} lines", metrics_path
    )
  mean_average_precision, ranks, by_name = {}, None, {"mP": {}, "mR": {}}
  for start in range(0, len(lines), 4):
    protocol = lines[start]
    if protocol in mean_average_precision:
      raise errors.InputError("each protocol once", protocol, metrics_path)
    mean_average_precision[protocol] = _mean(lines[start + 1], metrics_path)
    for name, line in zip(by_name, lines[start + 2 : start + 4], strict=True):
      found, values = _at_ranks(line, name, metrics_path)
      if ranks is not None and not np.array_equal(found, ranks):
        raise errors.InputError(
          f"the same ranks everywhere, {_text(ranks)}",
          _text(found),
          metrics_path,
        )
      ranks = found
      by_name[name][protocol] = values
  return mean_average_precision, ranks, by_name["mP"], by_name["mR"]


def _percent(values):
  return np.around(np.asarray(values, np.float64) * 100, decimals=2)


def _text(array):
  """Returns an array as NumPy prints it unless told otherwise; on one line."""
  return np.array2string(
    np.asarray(array),
    max_line_width=sys.maxsize,
    threshold=sys.maxsize,
    precision=8,
    floatmode="maxprec",
    suppress_small=False,
    sign="-",
    formatter={},
    legacy=False,
  )


def _lines(path):
  """Returns the lines of a metrics file; what had wrapped is joined."""
  try:
    text = files.read_bytes(path, _LIMIT).decode()
  except UnicodeDecodeError:
    raise errors.InputError("a metrics file", "binary data", path) from None
  lines, depth = [], 0
  for line in text.splitlines():
    if depth > 0:
      lines[-1].append(line)
    else:
      lines.append([line.rstrip()])
      depth = 0
    depth += line.count("[") - line.count("]")
  return ["".join(parts) for parts in lines]


def _mean(line, path):
  prefix, _, value = line.partition("=")
  if prefix != "  mAP":
    _no("  mAP=", line, path)
  return float(_floats([value], line, path)[0])


def _at_ranks(line, name, path):
  """Returns ([R] int64 ranks, [R] float64 values) of a line."""
  match = _AT_RANKS.fullmatch(line)
  if not match or match[1] != name:
    _no(f"  {name}@k[ranks] [values]", line, path)
  try:
    ranks = np.array(match[2].split(), np.int64)
  except (ValueError, OverflowError):
    _no("ranks", line, path)
  values = _floats(match[3].split(), line, path)
  if len(ranks) != len(values):
    raise errors.InputError(
      f"{len(ranks)} values in '{line.strip()}'", f"{len(values)}", path
    )
  return ranks, values


def _floats(words, line, path):
  try:
    return np.array(words, np.float64) / 100
  except ValueError:
    return _no("numbers", line, path)


def _no(expected, line, path):
  raise errors.InputError(f"'{expected}'", f"'{line[:80]}'", path)
