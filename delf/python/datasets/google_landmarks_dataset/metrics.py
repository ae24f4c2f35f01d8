"""Metrics of the Google Landmarks contests.

Source: T. Weyand et al., "Google Landmarks Dataset v2", CVPR 2020, and the
rules of the contests: global (micro) average precision for recognition, mean
average precision at 100 for retrieval.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from delf.base import errors

# By test image: `{"class": int, "score": float}`, and its landmarks.
Predictions = Mapping[str, dict]
Landmarks = Mapping[str, Sequence[int]]
# By test image: names of index images, best first for predictions.
Images = Mapping[str, Sequence[str]]


def GlobalAveragePrecision(
  predictions: Predictions,
  recognition_solution: Landmarks,
  ignore_non_gt_test_images: bool = False,
) -> float:
  """Return the average precision over all predictions, best score first.

  Equal scores keep the order of the predictions. Predictions of images without
  landmarks are ignored with `ignore_non_gt_test_images`, else wrong. InputError
  is raised if no image has landmarks, or if the solution lacks an image.
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
  """Return the fraction of images with landmarks that are predicted right."""
  number = _number_with_landmarks(recognition_solution)
  correct = sum(
    image in predictions and predictions[image]["class"] in landmarks
    for image, landmarks in recognition_solution.items()
  )
  return correct / number


def MeanAveragePrecision(
  predictions: Images, retrieval_solution: Images, max_predictions: int = 100
) -> float:
  """Return the mean average precision of retrieval.

  If an index image is predicted twice, the first counts. Test images without
  predictions or without expected images count as 0. InputError is raised if the
  solution is empty or lacks a test image.
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
  """Return mean precisions at ranks from 1; missing predictions are wrong."""
  hits = np.zeros([max(max_predictions, 0) + 1])
  for _, ranks in _hits(predictions, retrieval_solution, max_predictions):
    hits[ranks] += 1  # Ranks of an image differ.
  depth = np.arange(1, max_predictions + 1)
  return np.cumsum(hits[1:]) / depth / len(retrieval_solution)


def MeanMedianPosition(
  predictions: Images, retrieval_solution: Images, max_predictions: int = 100
) -> tuple[float, float]:
  """Return the mean and the median rank of the first correct prediction.

  Test images without a correct prediction have rank `max_predictions + 1`.
  """
  positions = np.full([len(retrieval_solution)], max_predictions + 1)
  hits = _hits(predictions, retrieval_solution, max_predictions)
  for i, (_, ranks) in enumerate(hits):
    if ranks:
      positions[i] = ranks[0]
  return float(positions.mean()), float(np.median(positions))


def _hits(predictions, solution, max_predictions):
  """Yield (test image, ascending ranks from 1 of correct predictions)."""
  if max_predictions < 1 or not solution:
    text = f"{len(solution)} test images, max_predictions {max_predictions}"
    raise errors.InputError(f"{text}: both must be 1 or more")
  for image, predicted in predictions.items():
    expected = set(_expected(solution, image))
    ranks: dict[str, int] = {}
    for rank, name in enumerate(predicted[:max_predictions], start=1):
      if name in expected:
        ranks.setdefault(name, rank)
    yield image, list(ranks.values())


def _expected(solution, image):
  if image not in solution:
    raise errors.InputError(f"the solution has no test image {image}")
  return solution[image]


def _number_with_landmarks(solution):
  number = sum(bool(landmarks) for landmarks in solution.values())
  if not number:
    raise errors.InputError("no image of the solution has landmarks")
  return number
