"""Script that measures predictions of the landmark retrieval contest."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.python.datasets.google_landmarks_dataset import (
  dataset_file_io,
  metrics,
)

# Ranks whose mean precision is printed.
_RANKS = (1, 5, 10, 50, 100)


def define_flags() -> None:
  """Define the flags."""
  define("predictions_path", "/tmp/predictions.csv", "CSV: id,images")
  define("solution_path", "/tmp/solution.csv", "CSV: id,images,Usage")


def main() -> None:
  """Print the metrics of the public and of the private part."""
  task = dataset_file_io.RETRIEVAL_TASK_ID
  *solutions, ignored = dataset_file_io.ReadSolution(FLAGS.solution_path, task)
  predictions = dataset_file_io.ReadPredictions(
    FLAGS.predictions_path, *solutions, ignored, task
  )
  parts = zip(("Public", "Private"), predictions, solutions, strict=True)
  for part, predicted, solution in parts:
    print(  # noqa: T201
      f"{part}: {len(solution)} test images, {len(predicted)} with predictions"
    )
    if solution:
      _print(predicted, solution)
  print(f"Ignored: {len(ignored)} test images")  # noqa: T201


def _print(predicted, solution):
  mean_average_precision = metrics.MeanAveragePrecision(predicted, solution)
  precisions = metrics.MeanPrecisions(predicted, solution)
  mean, median = metrics.MeanMedianPosition(predicted, solution)
  at_ranks = ", ".join(f"{100 * precisions[k - 1]:.2f} at {k}" for k in _RANKS)
  print(  # noqa: T201
    f"  Mean average precision: {100 * mean_average_precision:.2f}\n"
    f"  Mean precision: {at_ranks}\n"
    f"  Position of the first correct image: mean {mean:.2f},"
    f" median {median:.1f}"
  )


if __name__ == "__main__":
  scripts.run(main, define_flags)
