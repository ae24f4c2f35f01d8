"""Older path of the module of this name in `delf.python.datasets`."""

from delf.python.datasets.google_landmarks_dataset.googlelandmarks import *  # noqa: E501, F403
