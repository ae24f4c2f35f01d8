"""Files that cannot grow, as on a full disk: what is written for good fails."""

import contextlib

import pytest


@contextlib.contextmanager
def limit(size):
  """Has the system refuse files of this process that are larger, in bytes."""
  resource = pytest.importorskip("resource")
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
