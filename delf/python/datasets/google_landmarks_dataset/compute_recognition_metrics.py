"""Measure predictions of the landmark recognition contest (script)."""

from delf.cli import scripts
from delf.python.datasets.google_landmarks_dataset import (
  dataset_file_io,
  metrics,
)


def define_flags() -> None:
  """Define the flags."""
  scripts.define_contest("id,landmark score", "id,landmarks")


def main() -> None:
  """Print the metrics of the public and the private part."""
  task = dataset_file_io.RECOGNITION_TASK_ID
  scripts.print_metrics(task, "predictions", _lines)


def _lines(predicted, solution):
  if not any(solution.values()):
    return
  gap = metrics.GlobalAveragePrecision(predicted, solution)
  among = metrics.GlobalAveragePrecision(predicted, solution, True)
  top_1 = metrics.Top1Accuracy(predicted, solution)
  yield f"  Global average precision: {100 * gap:.2f}"
  yield f"  Global average precision, landmarks only: {100 * among:.2f}"
  yield f"  Top-1 accuracy: {100 * top_1:.2f}"


if __name__ == "__main__":
  scripts.run(main, define_flags)
