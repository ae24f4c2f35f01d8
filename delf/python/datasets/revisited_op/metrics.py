"""Metrics of Revisited Oxford and Paris.

Source: F. Radenovic et al., "Revisiting Oxford and Paris: Large-Scale Image
Retrieval Benchmarking", CVPR 2018, section 3; average precision is the area
under the precision-recall curve by the trapezoidal rule, as in Philbin et al.,
CVPR 2007. Images that are junk for a query are taken out of its ranking first.
"""

import numpy as np

from delf.python import errors

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
