"""What a search has found, by name."""

import dataclasses

import numpy as np

from delf.python.pipelines import extract_report, queries
from delf.python.retrieval import ranking, verification


@dataclasses.dataclass(frozen=True)
class Hit:
  """One result of a query.

  Attributes:
    name: Name of the image in the collection.
    score: What the first stage compares; larger is better.
    inliers: Points that agree with the query, or None where it was not matched.
    box: (x1, y1, x2, y2) in pixels of the photo: the region that is most like
      the query; None for the whole image.
  """

  name: str
  score: float
  inliers: int | None = None
  box: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class SearchResult:
  """The results of all queries.

  Attributes:
    queries: queries.Query of each row.
    names: Names of the images in the collection.
    ranking: ranking.Ranking, [Q, k], over `names`; after verification in the
      order of inliers, the scores those of the first stage.
    inliers: [Q, k] int32, -1 where an image was not matched; None where none
      was.
    method: What was compared: "global", "words" or "fusion".
    verify: verification.VerifyOptions that images were matched with.
    failed: Each query or image that could not be used.
    boxes: Of each query, and of each of its k images, the box of Hit; None of a
      collection without regions.
  """

  queries: tuple[queries.Query, ...]
  names: tuple[str, ...]
  ranking: ranking.Ranking
  inliers: np.ndarray | None
  method: str
  verify: verification.VerifyOptions
  failed: tuple[extract_report.Failure, ...] = ()
  boxes: list | None = None

  def hits(self):
    """Yields each Query with the list of its Hit, best first."""
    for row, query in enumerate(self.queries):
      yield query, self.hits_of(row)

  def hits_of(self, row):
    """Returns the list of Hit of a query, best first."""
    ids, scores = self.ranking.ids[row], self.ranking.scores[row]
    found = []
    for column in np.flatnonzero(ids >= 0):
      inliers = None if self.inliers is None else int(self.inliers[row, column])
      found.append(
        Hit(
          self.names[ids[column]],
          float(scores[column]),
          None if inliers is None or inliers < 0 else inliers,
          None if self.boxes is None else self.boxes[row][column],
        )
      )
    return found

  def document(self):
    """Returns a dict for JSON."""
    return {
      "method": self.method,
      "queries": [
        {
          "query": query.name,
          "photo": query.photo,
          "results": [dataclasses.asdict(hit) for hit in hits],
        }
        for query, hits in self.hits()
      ],
      "failed": [dataclasses.asdict(failure) for failure in self.failed],
    }
