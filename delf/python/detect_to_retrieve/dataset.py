"""Older path of `delf.python.datasets.revisited_op.dataset`."""

from delf.python.datasets.revisited_op.dataset import *  # noqa: F403
