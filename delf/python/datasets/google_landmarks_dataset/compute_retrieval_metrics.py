"""Measure predictions of the landmark retrieval contest (script)."""

from delf.cli import scripts
from delf.python.datasets.google_landmarks_dataset import (
  dataset_file_io,
  metrics,
)

# Ranks whose mean precision is printed.
_RANKS = (1, 5, 10, 50, 100)


def define_flags() -> None:
  """Define the flags."""
  scripts.define_contest("id,images", "id,images")


def main() -> None:
  """Print the metrics of the public and the private part."""
  task = dataset_file_io.RETRIEVAL_TASK_ID
  scripts.print_metrics(task, "with predictions", _lines)


def _lines(predicted, solution):
  if not solution:
    return
  mean_average_precision = metrics.MeanAveragePrecision(predicted, solution)
  precisions = metrics.MeanPrecisions(predicted, solution)
  mean, median = metrics.MeanMedianPosition(predicted, solution)
  at_ranks = ", ".join(f"{100 * precisions[k - 1]:.2f} at {k}" for k in _RANKS)
  yield f"  Mean average precision: {100 * mean_average_precision:.2f}"
  yield f"  Mean precision: {at_ranks}"
  yield (
    f"  Position of the first correct image: mean {mean:.2f},"
    f" median {median:.1f}"
  )


if __name__ == "__main__":
  scripts.run(main, define_flags)
