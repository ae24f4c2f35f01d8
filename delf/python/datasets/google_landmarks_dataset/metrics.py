"""Metrics of the Google Landmarks contests.

Source: T. Weyand et al., "Google Landmarks Dataset v2", CVPR 2020, and the
rules of the contests: global (micro) average precision for recognition, mean
average precision at 100 for retrieval.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from delf.base import errors

# By test image: `{"class": int, "score": float}`, and landmarks that it shows.
Predictions = Mapping[str, dict]
Landmarks = Mapping[str, Sequence[int]]
# Names of index images by test image, predictions best first.
Images = Mapping[str, Sequence[str]]


def GlobalAveragePrecision(
  predictions: Predictions,
  recognition_solution: Landmarks,
  ignore_non_gt_test_images: bool = False,
) -> float:
  """Compute the average precision over all predictions, best score first.

  Equal scores stay in the order of the predictions. Predictions for images
  without landmarks are left out if `ignore_non_gt_test_images`, else wrong.
  InputError if no image shows a landmark, or one is not part of the solution.
  """
  number = _number_with_landmarks(recognition_solution)
  scores, correct = [], []
  for image, prediction in predictions.items():
    landmarks = _expected(recognition_solution, image)
    if landmarks or not ignore_non_gt_test_images:
      scores.append(prediction["score"])
      correct.append(prediction["class"] in landmarks)
  order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
  ranks = 1 + np.flatnonzero(np.asarray(correct, bool)[order])
  return float((np.arange(1, len(ranks) + 1) / ranks).sum() / number)


def Top1Accuracy(
  predictions: Predictions, recognition_solution: Landmarks
) -> float:
  """Compute the share of images with landmarks that are predicted right."""
  number = _number_with_landmarks(recognition_solution)
  correct = sum(
    image in predictions and predictions[image]["class"] in landmarks
    for image, landmarks in recognition_solution.items()
  )
  return correct / number


def MeanAveragePrecision(
  predictions: Images, retrieval_solution: Images, max_predictions: int = 100
) -> float:
  """Compute the mean average precision of retrieval, predictions best first.

  Of index images that are predicted twice, the first counts. A test image
  without predictions, or without expected images, counts 0. InputError if a
  test image is not part of the solution, or the solution is empty.
  """
  total = 0.0
  for image, ranks in _hits(predictions, retrieval_solution, max_predictions):
    expected = min(len(retrieval_solution[image]), max_predictions)
    if ranks:
      total += sum((i + 1) / r for i, r in enumerate(ranks)) / expected
  return total / len(retrieval_solution)


def MeanPrecisions(
  predictions: Images, retrieval_solution: Images, max_predictions: int = 100
) -> np.ndarray:
  """Compute mean precisions at the ranks from 1 to `max_predictions`.

  Missing predictions count as wrong.
  """
  hits = np.zeros([max(max_predictions, 0) + 1])
  for _, ranks in _hits(predictions, retrieval_solution, max_predictions):
    hits[ranks] += 1  # Ranks of an image differ.
  depth = np.arange(1, max_predictions + 1)
  return hits[1:].cumsum() / depth / len(retrieval_solution)


def MeanMedianPosition(
  predictions: Images, retrieval_solution: Images, max_predictions: int = 100
) -> tuple[float, float]:
  """Compute mean and median of the rank of the first correct prediction.

  A test image without one has `max_predictions + 1`.
  """
  positions = np.full([len(retrieval_solution)], max_predictions + 1)
  hits = _hits(predictions, retrieval_solution, max_predictions)
  for i, (_, ranks) in enumerate(hits):
    if ranks:
      positions[i] = ranks[0]
  return float(positions.mean()), float(np.median(positions))


def _hits(predictions, solution, max_predictions):
  """Yield (test image, ascending ranks of its correct ones, from 1)."""
  if max_predictions < 1 or not solution:
    raise errors.InputError(
      "a solution with test images, and max_predictions from 1",
      f"{len(solution)} test images and {max_predictions}",
    )
  for image, predicted in predictions.items():
    expected = set(_expected(solution, image))
    ranks = {}
    for rank, name in enumerate(predicted[:max_predictions], start=1):
      if name in expected:
        ranks.setdefault(name, rank)
    yield image, list(ranks.values())


def _expected(solution, image):
  if image not in solution:
    raise errors.InputError("test images of the solution", image)
  return solution[image]


def _number_with_landmarks(solution):
  number = sum(bool(landmarks) for landmarks in solution.values())
  if not number:
    raise errors.InputError("a solution with landmarks", "one without")
  return number
