"""Older path of `delf.python.datasets.google_landmarks_dataset`."""
