"""Older path of the module of this name in `datasets`."""

from delf.python.datasets.google_landmarks_dataset.metrics import *  # noqa: E501, F403
