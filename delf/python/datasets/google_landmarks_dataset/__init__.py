"""Google Landmarks: its files, metrics, and submissions to its contests."""

import delf

__all__, __getattr__, __dir__ = delf._lazy_submodules(
  __name__, "dataset_file_io", "googlelandmarks", "metrics"
)
