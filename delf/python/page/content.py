"""What a page of results holds."""

import dataclasses
import os

import numpy as np

from delf.python import errors

# What a result is by the ground truth.
TRUE, JUNK, FALSE = "true", "junk", "false"
LABELS = (TRUE, JUNK, FALSE, None)


@dataclasses.dataclass(frozen=True)
class Result:
  """One result of a query.

  Attributes:
    name: Words for the image.
    path: Path of the image, or None where there is none to show.
    score: Similarity, larger for better.
    inliers: Number of inliers, which verified results are ranked by, or None.
    label: TRUE, JUNK or FALSE by the ground truth, or None without one.
    box: (x1, y1, x2, y2) in pixels of the part that is most like the query, or
      None for the whole image.
    lines: [M, 4] float, (x, y) in the query's photo and (x, y) in this one, in
      pixels of the whole stored images; or None. `match_lines` makes them.
  """

  name: str
  path: str | os.PathLike | None
  score: float
  inliers: int | None = None
  label: str | None = None
  lines: np.ndarray | None = None
  box: tuple[float, float, float, float] | None = None

  def __post_init__(self):
    _check_box(self.box, self.name)
    if self.label not in LABELS:
      raise errors.InputError(f"a label of {LABELS}", repr(self.label))
    if self.lines is None:
      return
    lines = np.asarray(self.lines)
    if lines.ndim != 2 or lines.shape[1] != 4 or not np.isfinite(lines).all():
      raise errors.InputError(
        "lines as finite numbers of shape [M, 4]", f"shape {list(lines.shape)}"
      )


@dataclasses.dataclass(frozen=True)
class Query:
  """A query and its results.

  Attributes:
    name: Words for the query.
    path: Path of its photo, or None where there is none to show.
    results: Sequence of Result, best first.
    box: (x1, y1, x2, y2) in pixels of the part that was asked for, or None for
      the whole photo.
    note: A few words about it, for example its average precision.
  """

  name: str
  path: str | os.PathLike | None
  results: tuple[Result, ...]
  box: tuple[float, float, float, float] | None = None
  note: str = ""

  def __post_init__(self):
    _check_box(self.box, self.name)


def _check_box(box, name):
  if box is None:
    return
  numbers = np.asarray(box, np.float64)
  if numbers.shape != (4,) or not np.isfinite(numbers).all():
    raise errors.InputError("a box of four finite numbers", repr(box), name)


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of metrics.

  Attributes:
    title: Words for what it shows.
    columns: Heads, one for each column.
    rows: Rows of cells: the first of each is its head; str, a number, or None
      for what is not known. Numbers are shown with two decimals, whole ones
      without.
  """

  title: str
  columns: tuple[str, ...]
  rows: tuple[tuple[object, ...], ...]

  def __post_init__(self):
    for row in self.rows:
      if len(row) != len(self.columns):
        raise errors.InputError(
          f"rows of {len(self.columns)} cells", f"one of {len(row)}", self.title
        )


@dataclasses.dataclass(frozen=True)
class Curve:
  """A precision-recall curve.

  Attributes:
    name: Words for it, for example the protocol.
    recalls: [N] float in [0, 1], rising.
    precisions: [N] float in [0, 1].
  """

  name: str
  recalls: np.ndarray
  precisions: np.ndarray

  def __post_init__(self):
    points = np.array([self.recalls, self.precisions], np.float64)
    inside = np.all((points >= 0) & (points <= 1))
    if points.ndim != 2 or not inside or np.any(np.diff(points[0]) < 0):
      raise errors.InputError(
        "rising recalls, and precisions, all in [0, 1]", "others", self.name
      )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an evaluation adds to the page.

  Attributes:
    tables: Table of each kind of metric.
    curves: Curve of each protocol, drawn into one picture.
    report: Text of the report card, shown as it stands.
  """

  tables: tuple[Table, ...] = ()
  curves: tuple[Curve, ...] = ()
  report: str = ""


def match_lines(features_1, features_2, match, offset=(0.0, 0.0)):
  """Returns the lines of a match for `Result.lines`, weakest first.

  Args:
    features_1: features.LocalFeatures of the query.
    features_2: features.LocalFeatures of the result.
    match: matching.Match of them.
    offset: (y, x) in pixels of the query's features in its photo: the upper
      left corner of the box where the photo was cropped to one.

  Returns:
    [M, 4] float32, (x, y) in the query's photo and (x, y) in the result.
  """
  order = np.argsort(match.strengths, kind="stable")
  pairs = np.asarray(match.inliers)[order]
  first = np.reshape(features_1.locations, [-1, 2])[pairs[:, 0]] + offset
  second = np.reshape(features_2.locations, [-1, 2])[pairs[:, 1]]
  lines = [first[:, ::-1], second[:, ::-1]]
  return np.concatenate(lines, axis=1, dtype=np.float32)
