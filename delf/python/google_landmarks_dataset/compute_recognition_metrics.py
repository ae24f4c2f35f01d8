"""Older path of the script of this name in `datasets`."""

from delf.cli import scripts
from delf.python.datasets.google_landmarks_dataset import (
  compute_recognition_metrics as script,
)

if __name__ == "__main__":
  scripts.run(script.main, script.define_flags)
