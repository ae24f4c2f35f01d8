"""Script that measures predictions of the landmark recognition contest."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.python.datasets.google_landmarks_dataset import (
  dataset_file_io,
  metrics,
)


def define_flags() -> None:
  """Define the flags."""
  define("predictions_path", "/tmp/predictions.csv", "CSV: id,landmark score")
  define("solution_path", "/tmp/solution.csv", "CSV: id,landmarks,Usage")


def main() -> None:
  """Print the metrics of the public and of the private part."""
  task = dataset_file_io.RECOGNITION_TASK_ID
  *solutions, ignored = dataset_file_io.ReadSolution(FLAGS.solution_path, task)
  predictions = dataset_file_io.ReadPredictions(
    FLAGS.predictions_path, *solutions, ignored, task
  )
  parts = zip(("Public", "Private"), predictions, solutions, strict=True)
  for part, predicted, solution in parts:
    print(  # noqa: T201
      f"{part}: {len(solution)} test images, {len(predicted)} predictions"
    )
    if any(solution.values()):
      _print(predicted, solution)
  print(f"Ignored: {len(ignored)} test images")  # noqa: T201


def _print(predicted, solution):
  gap = metrics.GlobalAveragePrecision(predicted, solution)
  among = metrics.GlobalAveragePrecision(
    predicted, solution, ignore_non_gt_test_images=True
  )
  top_1 = metrics.Top1Accuracy(predicted, solution)
  print(  # noqa: T201
    f"  Global average precision: {100 * gap:.2f}\n"
    f"  Global average precision, landmarks only: {100 * among:.2f}\n"
    f"  Top-1 accuracy: {100 * top_1:.2f}"
  )


if __name__ == "__main__":
  scripts.run(main, define_flags)
