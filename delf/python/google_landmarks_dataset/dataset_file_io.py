"""Older path of the module of this name in `datasets`."""

from delf.python.datasets.google_landmarks_dataset.dataset_file_io import *  # noqa: E501, F403
