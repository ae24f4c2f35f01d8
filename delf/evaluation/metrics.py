"""Retrieval metrics of Revisited Oxford and Paris, and their file format."""

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from delf.base import errors, files
from delf.evaluation import ground_truth

# Ranks at which precision and recall are measured, as in the papers.
RANKS = (1, 5, 10)

# Largest ratio of ids to results at which a table of all ids is made.
_SPARSE = 64
_MAX_FILE_BYTES = 2**24
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_AT_RANKS = re.compile(r"  (m[PR])@k\[([\d\s]*)\]\s+\[([^\[\]]*)\]")


@dataclasses.dataclass(frozen=True)
class ProtocolMetrics:
  """Metrics of Q queries under one protocol, at R ranks; all in [0, 1]."""

  mean_average_precision: float  # NaN if no query has positives.
  mean_precisions: np.ndarray  # [R] float64
  mean_recalls: np.ndarray  # [R] float64
  average_precisions: np.ndarray  # [Q] float64, NaN without positives
  precisions: np.ndarray  # [Q, R] float64
  recalls: np.ndarray  # [Q, R] float64
  curve_recalls: np.ndarray  # [101] float64, see `mean_curve`
  curve_precisions: np.ndarray  # [101] float64
  left_out: tuple[str, ...]  # Names of the queries without positives.


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Metrics of searches in an index, by protocol."""

  dataset: str
  query_names: tuple[str, ...]
  num_images: int
  distractors: int  # Index images that the data set does not list.
  depth: int  # Length of rankings; positives beyond count as not retrieved.
  ranks: tuple[int, ...]  # At which precision and recall are measured.
  protocols: dict[str, ProtocolMetrics]


def evaluate(
  ids: np.ndarray | Mapping[str, np.ndarray],
  truth: ground_truth.GroundTruth,
  ranks: Iterable[int] = RANKS,
) -> Evaluation:
  """Measure rankings of index images with ground truth.

  `ids` are positions in the index, [Q, k] int, best first, padded with -1, or
  one such array per protocol. Ranks beyond the size of the index are dropped.
  """
  protocols = truth.protocols()
  if not isinstance(ids, Mapping):
    ids = dict.fromkeys(protocols, ids)
  size = len(truth.index_names)
  ranks = tuple(int(rank) for rank in ranks if rank <= size)
  measured = {}
  for protocol, ranking in ids.items():
    if protocol not in protocols:
      raise errors.InputError(
        f"unknown protocol '{protocol}': use one of {', '.join(protocols)}"
      )
    ranking = np.asarray(ranking)
    if ranking.ndim == 2 and ranking.size and ranking.max() >= size:
      raise errors.InputError(
        f"a ranking has id {ranking.max()}, but the index has {size} images"
      )
    labels = protocols[protocol]
    values = compute_metrics(ranking, labels, ranks)
    right, junk = ([each[key] for each in labels] for key in ("ok", "junk"))
    curve = mean_curve(ranking, right, junk)
    without = np.flatnonzero(np.isnan(values[3]))
    left_out = tuple(truth.query_names[i] for i in without)
    measured[protocol] = ProtocolMetrics(*values, *curve, left_out)
  return Evaluation(
    dataset=truth.dataset,
    query_names=truth.query_names,
    num_images=size,
    distractors=truth.distractors,
    depth=min((np.shape(r)[1] for r in ids.values()), default=0),
    ranks=ranks,
    protocols=measured,
  )


def compute_metrics(
  sorted_index_ids: np.ndarray,
  ground_truth: Sequence[dict],
  desired_pr_ranks: Sequence[int],
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Compute the metrics of rankings under one protocol.

  `sorted_index_ids` are ids of index images, [Q, N] whole numbers, best first,
  padded with -1; positives missing from a ranking count as not retrieved.
  `ground_truth` has Q dicts with "ok" and "junk", [n] int ids; ranks are 1 to
  N. Returns the first six fields of `ProtocolMetrics`; queries without
  positives have NaN and are left out of the means.
  """
  ids = _check_rankings(sorted_index_ids)
  ranks = _check_ranks(ids, ground_truth, desired_pr_ranks)
  average_precisions = np.full([len(ids)], np.nan)
  precisions = np.full([len(ids), len(ranks)], np.nan)
  recalls = np.full([len(ids), len(ranks)], np.nan)
  for i, labels in enumerate(ground_truth):
    positives = np.unique(_check_ids(labels["ok"], i))
    if not positives.size:
      continue
    junk = _check_ids(labels["junk"], i)
    at = positive_ranks(ids[i], positives, junk, i)
    average_precisions[i] = average_precision(at, len(positives))
    precisions[i], recalls[i] = precision_recall(at, ranks, len(positives))
  known = ~np.isnan(average_precisions)
  values = average_precisions, precisions, recalls
  map_, mp, mr = (
    each[known].mean(axis=0) if known.any() else np.full(each.shape[1:], np.nan)
    for each in values
  )
  return float(map_), mp, mr, *values


def average_precision(
  positive_ranks: np.ndarray, number: int | None = None
) -> float:
  """Return the average precision of one query, by the trapezoidal rule.

  `positive_ranks`, [p] int, are the ascending ranks (from 0) of retrieved
  positives, without junk; `number` counts all positives, by default p.
  """
  ranks = np.asarray(positive_ranks)
  number = len(ranks) if number is None else number
  hits = np.arange(len(ranks))
  # Precision before and after each positive.
  before = np.divide(hits, ranks, out=np.ones(len(ranks)), where=ranks > 0)
  after = (hits + 1) / (ranks + 1)
  return float((before + after).sum() / 2 / number) if number else 0.0


def precision_recall(
  positive_ranks: np.ndarray,
  desired_pr_ranks: Sequence[int],
  number: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Return precisions and recalls of one query at ranks from 1, [R] each.

  Once all positives are retrieved, deeper ranks count as that of the last one,
  so that few positives can reach a precision of 1. See `average_precision`.
  """
  ranks, desired = np.asarray(positive_ranks), np.asarray(desired_pr_ranks)
  number = len(ranks) if number is None else number
  if not number:
    return np.zeros(len(desired)), np.zeros(len(desired))
  last = ranks.max() + 1 if len(ranks) == number else desired
  depth = np.minimum(desired, last)
  hits = (ranks[:, None] < depth).sum(axis=0)
  return hits / depth, hits / number


def adjust_positive_ranks(
  positive_ranks: np.ndarray, junk_ranks: np.ndarray
) -> np.ndarray:
  """Return the ranks of positives after removal of junk, [P] int64.

  Arguments are ascending ranks from 0. (The original changes the first one.)
  """
  positive_ranks = np.asarray(positive_ranks, np.int64)
  junk_ranks = np.sort(np.asarray(junk_ranks, np.int64))
  return positive_ranks - np.searchsorted(junk_ranks, positive_ranks)


def positive_ranks(
  ids: np.ndarray, positives: np.ndarray, junk: np.ndarray, query: int = 0
) -> np.ndarray:
  """Return the ranks of retrieved positives, without junk, [p] ascending int64.

  Ids are integers, best first; negative ones are padding. InputError is raised
  if an image occurs twice; its message names `query`.
  """
  ids = ids[ids >= 0].astype(np.int64)
  size = int(ids.max(initial=-1)) + 1
  if size > _SPARSE * len(ids):  # Sorting is faster for few ids.
    num_unique = len(np.unique(ids))
    members = [np.isin(ids, labelled) for labelled in (positives, junk)]
  else:
    ranked, *tables = np.zeros([3, size], bool)
    ranked[ids] = True
    num_unique = int(np.count_nonzero(ranked))
    for table, labelled in zip(tables, (positives, junk), strict=True):
      table[labelled[labelled < size]] = True
    members = [table[ids] for table in tables]
  if num_unique != len(ids):
    raise errors.InputError(
      f"the ranking of query {query} has an image more than once"
    )
  return adjust_positive_ranks(*map(np.flatnonzero, members))


def mean_curve(
  rankings: np.ndarray | Sequence[np.ndarray],
  positives: Sequence[np.ndarray],
  junk: Sequence[np.ndarray] | None = None,
  levels: int = 101,
) -> tuple[np.ndarray, np.ndarray]:
  """Return the mean interpolated precision at levels of recall.

  The interpolated precision of a query is the highest at that recall or above,
  and 0 beyond its ranking (Manning et al., Introduction to Information
  Retrieval, 2008, section 8.4). The area under the curve is close to mAP.

  Each query has a ranking ([k] int ids, best first, negative padding),
  positives, and junk that is removed first. Returns (recalls, precisions),
  [levels] float64; precisions are NaN if no query has positives.
  """
  if junk is None:
    junk = [np.empty([0], np.int64)] * len(rankings)
  if not len(rankings) == len(positives) == len(junk):
    raise errors.InputError(
      f"positives of {len(positives)} and junk of {len(junk)} queries do not"
      f" fit the rankings of {len(rankings)} queries"
    )
  recalls = np.linspace(0, 1, levels)
  rows = []
  for ids, right, left_out in zip(rankings, positives, junk, strict=True):
    right = np.unique(np.asarray(right, np.int64))
    if not right.size:
      continue
    left_out = np.asarray(left_out, np.int64)
    ranks = positive_ranks(np.asarray(ids, np.int64), right, left_out)
    precisions = np.arange(1, len(ranks) + 1) / (ranks + 1)
    # The highest precision from each positive onwards; 0 past the last one.
    best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
    needed = np.maximum(np.ceil(recalls * len(right) - 1e-9), 1).astype(int)
    rows.append(best[np.minimum(needed - 1, len(ranks))])
  if not rows:
    return recalls, np.full([levels], np.nan)
  return recalls, np.mean(rows, axis=0)


def _check_rankings(ids):
  """Return ids as int [Q, N]; users may pass whole numbers as float."""
  ids = np.asarray(ids)
  if ids.ndim == 2 and ids.dtype.kind == "f":
    with np.errstate(invalid="ignore"):  # NaN is not whole.
      whole = ids.astype(np.int64)
    ids = whole if np.array_equal(whole, ids) else ids
  if ids.ndim != 2 or ids.dtype.kind not in "iu":
    raise errors.InputError(
      "ids of images must be whole numbers of shape [queries, images], not"
      f" {ids.dtype} of shape {list(ids.shape)}"
    )
  return ids


def _check_ranks(ids, ground_truth, desired):
  if len(ids) != len(ground_truth):
    raise errors.InputError(
      f"rankings of {len(ids)} queries, but ground truth of {len(ground_truth)}"
    )
  desired = np.asarray(desired, np.int64)
  if desired.ndim != 1 or (desired < 1).any():
    raise errors.InputError(f"ranks must be from 1 up, not {desired.tolist()}")
  if desired.max(initial=1) > ids.shape[1]:
    raise errors.InputError(
      f"rank {desired.max()} exceeds the {ids.shape[1]} images of a ranking"
    )
  return desired


def _check_ids(ids, query):
  ids = np.asarray(ids)
  whole = ids.astype(np.int64)
  wrong = (whole != ids) | (whole < 0)
  if wrong.any():
    raise errors.InputError(
      f"the ground truth of query {query} has an id of {ids[wrong][0]}: ids are"
      " whole numbers from 0"
    )
  return whole


def save(evaluation: Evaluation, path: str | os.PathLike) -> None:
  """Write the original's metrics file, whole or not at all."""
  mean, precisions, recalls = (
    {p: getattr(values, name) for p, values in evaluation.protocols.items()}
    for name in ("mean_average_precision", "mean_precisions", "mean_recalls")
  )
  write_file(mean, precisions, recalls, evaluation.ranks, path)


def write_file(
  mean_average_precision: Mapping[str, float],
  mean_precisions: Mapping[str, np.ndarray],
  mean_recalls: Mapping[str, np.ndarray],
  pr_ranks: Sequence[int],
  output_path: str | os.PathLike,
) -> None:
  """Write metrics by protocol, whole or not at all, in percent.

  Values are in [0, 1]; precisions and recalls are [R]. Long lists stay on one
  line. (The original wraps them, and then cannot read its own file.)
  """
  lines = []
  for protocol in sorted(mean_average_precision):
    mean = _percent(mean_average_precision[protocol])
    lines += [f"{protocol}\n", f"  mAP={mean!s}\n"]
    for name, values in (("mP", mean_precisions), ("mR", mean_recalls)):
      if protocol not in values:
        raise errors.InputError(f"the {name} of {protocol} is missing")
      at_ranks = _one_line(_percent(values[protocol]))
      lines.append(f"  {name}@k{_one_line(pr_ranks)} {at_ranks}\n")
  files.write_bytes(output_path, "".join(lines).encode())


def read_file(
  metrics_path: str | os.PathLike,
) -> tuple[dict, np.ndarray, dict, dict]:
  """Read a metrics file, also one of the original with wrapped lists.

  Returns (mean_average_precision, pr_ranks, mean_precisions, mean_recalls): a
  float by protocol, [R] int64, and twice [R] float64 by protocol, in [0, 1].
  """
  lines = _unwrapped_lines(metrics_path)
  if not lines or len(lines) % 4:
    raise _malformed(f"{len(lines)} lines, not four per protocol", metrics_path)
  means: dict[str, float] = {}
  by_name: dict[str, dict[str, np.ndarray]] = {"mP": {}, "mR": {}}
  ranks = np.empty([0], np.int64)
  for start in range(0, len(lines), 4):
    protocol, mean_line, *rank_lines = lines[start : start + 4]
    if protocol in means:
      raise _malformed(f"the protocol {protocol} occurs twice", metrics_path)
    prefix, _, value = mean_line.partition("=")
    if prefix != "  mAP":
      raise _malformed(f"no '  mAP=' in '{mean_line[:80]}'", metrics_path)
    means[protocol] = float(_fractions([value], mean_line, metrics_path)[0])
    for name, line in zip(by_name, rank_lines, strict=True):
      own_ranks, values = _parse_at_ranks(line, name, metrics_path)
      if by_name["mP"] and not np.array_equal(own_ranks, ranks):
        both = f"{_one_line(ranks)} and {_one_line(own_ranks)}"
        raise _malformed(f"the ranks differ, {both}", metrics_path)
      ranks = own_ranks
      by_name[name][protocol] = values
  return means, ranks, by_name["mP"], by_name["mR"]


def _percent(values):
  return np.around(np.asarray(values, np.float64) * 100, decimals=2)


def _one_line(array):
  """Return an array on one line, as NumPy prints it without print options."""
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


def _unwrapped_lines(path):
  """Return the lines of a metrics file, with lists in brackets joined."""
  try:
    text = files.read_bytes(path, _MAX_FILE_BYTES).decode()
  except UnicodeDecodeError:
    raise _malformed("binary data, not text", path) from None
  text = _BRACKETS.sub(lambda match: "".join(match[0].splitlines()), text)
  return [line.rstrip() for line in text.splitlines()]


def _parse_at_ranks(line, name, path):
  """Return the ranks, [R] int64, and the values, [R] float64, of a line."""
  match = _AT_RANKS.fullmatch(line)
  if not match or match[1] != name:
    form = f"  {name}@k[ranks] [values]"
    raise _malformed(f"'{line[:80]}' is not of the form '{form}'", path)
  try:
    ranks = np.array(match[2].split(), np.int64)
  except (ValueError, OverflowError):
    raise _malformed(f"ranks in '{line[:80]}' are not numbers", path) from None
  values = _fractions(match[3].split(), line, path)
  if len(ranks) != len(values):
    text = f"{len(ranks)} ranks, but {len(values)} values in '{line.strip()}'"
    raise _malformed(text, path)
  return ranks, values


def _fractions(percents, line, path):
  try:
    return np.array(percents, np.float64) / 100
  except ValueError:
    raise _malformed(f"'{line[:80]}' has no numbers", path) from None


def _malformed(problem, path):
  return errors.InputError(f"Malformed input: {problem}", path=path)
