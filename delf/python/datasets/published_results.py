"""Published results on the Revisited data sets, to be printed beside others."""

import dataclasses

# Number of distractors of the columns "+1M".
MILLION = 1_000_000

# Queries and images of the data sets that the results are of.
WHOLE = {"roxford5k": (70, 4993), "rparis6k": (70, 6322)}

_GUIDE = "guides of the original, April 2021"
_TABLE = (
  "DELG (Cao et al., ECCV 2020), Table 3, as reprinted in ViTGaL (Phan et al.,"
  " ACCV 2022), Table 1"
)


@dataclasses.dataclass(frozen=True)
class Published:
  """A published result, in percent.

  Attributes:
    method: Words for the method and what it was trained on.
    medium: mAP of the medium protocol.
    hard: mAP of the hard protocol.
    source: Where it is published.
    precisions: dict by protocol of mP at 1, 5 and 10, or {} where none is.
  """

  method: str
  medium: float
  hard: float
  source: str
  precisions: dict = dataclasses.field(default_factory=dict)


def _guide(method, medium, hard, medium_precisions, hard_precisions):
  return Published(
    method,
    medium,
    hard,
    _GUIDE,
    {"medium": medium_precisions, "hard": hard_precisions},
  )


_GUIDES = {
  "roxford5k": (
    _guide(
      "DELF R-ASMK*, 65536 words",
      73.3,
      47.61,
      (97.14, 94.57, 90.14),
      (84.29, 73.71, 64.43),
    ),
    _guide(
      "R50-DELG global (GLDv1)",
      69.71,
      45.11,
      (95.71, 92.0, 86.86),
      (85.71, 72.29, 60.14),
    ),
    _guide(
      "R50-DELG global + verification (GLDv1)",
      75.42,
      53.72,
      (97.14, 95.24, 93.81),
      (91.43, 83.81, 74.38),
    ),
    _guide(
      "RN101-ArcFace global (GLDv2-clean)",
      76.23,
      55.54,
      (95.71, 92.86, 90.43),
      (88.57, 80.86, 70.14),
    ),
  ),
}

# Method; medium and hard of each: Oxford, Oxford +1M, Paris, Paris +1M.
_ROWS = (
  ("HesAff-rSIFT-ASMK* + verification",
   60.6, 36.7, 46.8, 26.9, 61.4, 35.0, 42.3, 16.8),
  ("DELF-ASMK* + verification",
   67.8, 43.1, 53.8, 31.2, 76.9, 55.4, 57.3, 26.4),
  ("DELF-R-ASMK* + verification (GLDv1)",
   76.0, 52.4, 64.0, 38.1, 80.2, 58.6, 59.7, 29.4),
  ("R50-DELG global (GLDv1)",
   69.7, 45.1, 55.0, 27.8, 81.6, 63.4, 59.7, 34.1),
  ("R101-DELG global (GLDv1)",
   73.2, 51.2, 54.8, 30.3, 82.4, 64.7, 61.8, 35.5),
  ("R50-DELG global (GLDv2-clean)",
   73.6, 51.0, 60.6, 32.7, 85.7, 71.5, 68.6, 44.4),
  ("R101-DELG global (GLDv2-clean)",
   76.3, 55.6, 63.7, 37.5, 86.6, 72.4, 70.6, 46.9),
  ("R50-DELG global + verification (GLDv1)",
   75.1, 54.2, 61.1, 36.8, 82.3, 64.9, 60.5, 34.8),
  ("R101-DELG global + verification (GLDv1)",
   78.5, 59.3, 62.7, 39.3, 82.9, 65.5, 62.6, 37.0),
  ("R50-DELG global + verification (GLDv2-clean)",
   78.3, 57.9, 67.2, 43.6, 85.7, 71.0, 69.6, 45.7),
  ("R101-DELG global + verification (GLDv2-clean)",
   81.2, 64.0, 69.1, 47.5, 87.2, 72.8, 71.5, 48.7),
)  # fmt: skip


def rows(dataset, size, distractors=0):
  """Returns what is published for a data set.

  Args:
    dataset: Name of the data set.
    size: Numbers of its queries and of the images that it lists: what is
      published is no measure for a part of it.
    distractors: How many images are searched that it does not list.

  Returns:
    tuple of Published; () for other data sets and numbers of distractors.
  """
  with_million = distractors >= MILLION
  if WHOLE.get(dataset) != size or 0 < distractors < MILLION:
    return ()
  column = 1 + 2 * with_million + 4 * (dataset == "rparis6k")
  table = tuple(
    Published(row[0], row[column], row[column + 1], _TABLE) for row in _ROWS
  )
  return (() if with_million else _GUIDES.get(dataset, ())) + table
