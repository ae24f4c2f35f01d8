"""Retrieval metrics of Revisited Oxford and Paris, and their file."""

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from delf.base import errors, files
from delf.evaluation import ground_truth

# Where precision and recall are measured, as in the papers.
RANKS = (1, 5, 10)

# Ids may exceed the number of results this many times for a table of all ids.
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
  """Metrics of a search in a collection, by protocol."""

  dataset: str
  query_names: tuple[str, ...]
  num_images: int
  distractors: int  # Images that the data set does not list.
  depth: int  # Of each ranking; positives beyond it count as never found.
  ranks: tuple[int, ...]  # Where precision and recall are measured.
  protocols: dict[str, ProtocolMetrics]


def evaluate(
  ids: np.ndarray | Mapping[str, np.ndarray],
  truth: ground_truth.GroundTruth,
  ranks: Iterable[int] = RANKS,
) -> Evaluation:
  """Measure rankings of a collection with its ground truth.

  `ids` are [Q, k] int, positions in the collection, best first, -1 for none; or
  such an array for each protocol, as after re-ranking without its junk.
  Precision and recall are measured at `ranks`, as far as the collection goes.
  """
  protocols = truth.protocols()
  if not isinstance(ids, Mapping):
    ids = dict.fromkeys(protocols, ids)
  size = len(truth.index_names)
  ranks = tuple(int(rank) for rank in ranks if rank <= size)
  measured = {}
  for protocol, ranking in ids.items():
    if protocol not in protocols:
      expected = f"a protocol of {', '.join(protocols)}"
      raise errors.InputError(expected, str(protocol))
    ranking = np.asarray(ranking)
    if ranking.ndim == 2 and ranking.size and ranking.max() >= size:
      raise errors.InputError(
        f"rankings of a collection of {size} images", f"image {ranking.max()}"
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

  `sorted_index_ids` are [Q, N] whole numbers, ids of index images, best first,
  -1 for none; positives that are not among them count as never found. Ground
  truth is Q dicts with "ok" and "junk", [n] int ids; ranks are from 1 to N.
  Returns the first six fields of `ProtocolMetrics`; a query without positives
  has NaN, and is left out of the means.
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
  if known.any():
    means = [each[known].mean(axis=0) for each in values]
  else:
    means = [np.full(each.shape[1:], np.nan) for each in values]
  return float(means[0]), *means[1:], *values


def average_precision(
  positive_ranks: np.ndarray, number: int | None = None
) -> float:
  """Average the precision of one query over recall, by the trapezoidal rule.

  `positive_ranks`, [p] int, are ascending ranks from 0 of the positives that
  were found, without junk; `number` is that of all positives, by default p.
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

  A rank beyond the last positive counts as the last positive's, so that a query
  with few positives can have a precision of 1. See `average_precision`.
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
  """Return the ranks of positives after the junk is removed, [P] int64.

  Both arrays have ascending ranks from 0. (The original changes the first in
  place; here it stays as it is.)
  """
  positive_ranks = np.asarray(positive_ranks, np.int64)
  junk_ranks = np.sort(np.asarray(junk_ranks, np.int64))
  return positive_ranks - np.searchsorted(junk_ranks, positive_ranks)


def positive_ranks(
  ids: np.ndarray, positives: np.ndarray, junk: np.ndarray, query: int = 0
) -> np.ndarray:
  """Return the ranks of the positives that a ranking has, without junk.

  Ids are int64, best first, negative ones stand for none; `query` is a number
  for the error if an image is ranked twice. Ranks are [p] int64, ascending.
  """
  ids = ids[ids >= 0].astype(np.int64)
  size = ids.max(initial=-1) + 1
  if size > _SPARSE * len(ids):  # Few of many images: sorting is faster.
    unique = len(np.unique(ids))
    members = [np.isin(ids, labelled) for labelled in (positives, junk)]
  else:
    ranked, *tables = np.zeros([3, size], bool)
    ranked[ids] = True
    unique = np.count_nonzero(ranked)
    for table, labelled in zip(tables, (positives, junk), strict=True):
      table[labelled[labelled < size]] = True
    members = [table[ids] for table in tables]
  if unique != len(ids):
    once = f"each image once in the ranking of query {query}"
    raise errors.InputError(once, "one twice")
  return adjust_positive_ranks(*map(np.flatnonzero, members))


def mean_curve(
  rankings: Sequence[np.ndarray],
  positives: Sequence[np.ndarray],
  junk: Sequence[np.ndarray] | None = None,
  levels: int = 101,
) -> tuple[np.ndarray, np.ndarray]:
  """Return the mean precision at levels of recall.

  Of each query it is the interpolated precision: the highest at that recall or
  a higher one, and 0 at recalls that its ranking does not reach (Manning et
  al., Introduction to Information Retrieval, 2008, section 8.4). The area under
  it is near mAP, not equal to it.

  Each query has a ranking ([k] int ids, best first; negative: none), positives
  and junk that is removed first; `levels` are those of recall, from 0 to 1.
  Returns (recalls, precisions), float64; NaN where no query has positives.
  """
  junk = [()] * len(rankings) if junk is None else junk
  if not len(rankings) == len(positives) == len(junk):
    raise errors.InputError(
      f"positives and junk of {len(rankings)} queries",
      f"{len(positives)} and {len(junk)}",
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
    # From each positive on the highest precision; 0 past the last one.
    best = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
    needed = np.maximum(np.ceil(recalls * len(right) - 1e-9), 1).astype(int)
    rows.append(best[np.minimum(needed - 1, len(ranks))])
  if not rows:
    return recalls, np.full([levels], np.nan)
  return recalls, np.mean(rows, axis=0)


def _check_rankings(ids):
  """Ids as int [Q, N]; those of users may be float."""
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


def _check_ranks(ids, ground_truth, desired):
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


def _check_ids(ids, query):
  ids = np.asarray(ids)
  whole = ids.astype(np.int64)
  wrong = (whole != ids) | (whole < 0)
  if wrong.any():
    raise errors.InputError(
      f"ids from 0 in the ground truth of query {query}", f"{ids[wrong][0]}"
    )
  return whole


def save(evaluation: Evaluation, path: str | os.PathLike) -> None:
  """Write the original's metrics file, whole or not at all."""
  protocols = evaluation.protocols.items()
  names = ("mean_average_precision", "mean_precisions", "mean_recalls")
  means = [{p: getattr(v, name) for p, v in protocols} for name in names]
  write_file(*means, evaluation.ranks, path)


def write_file(
  mean_average_precision: Mapping[str, float],
  mean_precisions: Mapping[str, np.ndarray],
  mean_recalls: Mapping[str, np.ndarray],
  pr_ranks: Sequence[int],
  output_path: str | os.PathLike,
) -> None:
  """Write metrics by protocol, whole or not at all, in percent.

  Values, in [0, 1], get two decimals; precisions and recalls are [R]. Long
  lists stay on one line. (The original's wrap, and its own reader then rejects
  them.)
  """
  lines = []
  for protocol in sorted(mean_average_precision):
    mean = _percent(mean_average_precision[protocol])
    lines += [f"{protocol}\n", f"  mAP={mean!s}\n"]
    for name, values in (("mP", mean_precisions), ("mR", mean_recalls)):
      if protocol not in values:
        raise errors.InputError(f"{name} of {protocol}", "none")
      at_ranks = _one_line(_percent(values[protocol]))
      lines.append(f"  {name}@k{_one_line(pr_ranks)} {at_ranks}\n")
  files.write_bytes(output_path, "".join(lines).encode())


def read_file(
  metrics_path: str | os.PathLike,
) -> tuple[dict, np.ndarray, dict, dict]:
  """Read a metrics file, the original's too, also where its lists wrap.

  Returns (mean_average_precision, pr_ranks, mean_precisions, mean_recalls): by
  protocol float, [R] int64, and by protocol [R] float64 in [0, 1].
  """
  lines = _unwrapped_lines(metrics_path)
  if not lines or len(lines) % 4:
    raise errors.InputError(
      "four lines for each protocol", f"{len(lines)} lines", metrics_path
    )
  means, ranks, by_name = {}, None, {"mP": {}, "mR": {}}
  for start in range(0, len(lines), 4):
    protocol, mean_line, *rank_lines = lines[start : start + 4]
    if protocol in means:
      raise errors.InputError("each protocol once", protocol, metrics_path)
    prefix, _, value = mean_line.partition("=")
    if prefix != "  mAP":
      raise _bad_line("  mAP=", mean_line, metrics_path)
    means[protocol] = float(_fractions([value], mean_line, metrics_path)[0])
    for name, line in zip(by_name, rank_lines, strict=True):
      own_ranks, values = _parse_at_ranks(line, name, metrics_path)
      if ranks is not None and not np.array_equal(own_ranks, ranks):
        expected = f"the same ranks everywhere, {_one_line(ranks)}"
        received = _one_line(own_ranks)
        raise errors.InputError(expected, received, metrics_path)
      ranks = own_ranks
      by_name[name][protocol] = values
  return means, ranks, by_name["mP"], by_name["mR"]


def _percent(values):
  return np.around(np.asarray(values, np.float64) * 100, decimals=2)


def _one_line(array):
  """An array as NumPy prints it by default, whatever is set, on one line."""
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
  """Lines of a metrics file, those within brackets joined."""
  try:
    text = files.read_bytes(path, _MAX_FILE_BYTES).decode()
  except UnicodeDecodeError:
    raise errors.InputError("a metrics file", "binary data", path) from None
  text = _BRACKETS.sub(lambda match: "".join(match[0].splitlines()), text)
  return [line.rstrip() for line in text.splitlines()]


def _parse_at_ranks(line, name, path):
  """([R] int64 ranks, [R] float64 values) of a line."""
  match = _AT_RANKS.fullmatch(line)
  if not match or match[1] != name:
    raise _bad_line(f"  {name}@k[ranks] [values]", line, path)
  try:
    ranks = np.array(match[2].split(), np.int64)
  except (ValueError, OverflowError):
    raise _bad_line("ranks", line, path) from None
  values = _fractions(match[3].split(), line, path)
  if len(ranks) != len(values):
    raise errors.InputError(
      f"{len(ranks)} values in '{line.strip()}'", f"{len(values)}", path
    )
  return ranks, values


def _fractions(percents, line, path):
  try:
    return np.array(percents, np.float64) / 100
  except ValueError:
    raise _bad_line("numbers", line, path) from None


def _bad_line(expected, line, path):
  return errors.InputError(f"'{expected}'", f"'{line[:80]}'", path)
