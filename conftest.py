"""What tests share: where data is, and signals that reach them."""

import os
import pathlib
import signal

import pytest

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

_SHARED = pathlib.Path(__file__).resolve().parent.parent / "shared"


def _shared_folder(name):
  folder = _SHARED / name
  if not folder.is_dir():
    pytest.skip(f"shared/{name} is not beside this checkout")
  return folder


@pytest.fixture(scope="session")
def goldens():
  """Folder of the inputs and outputs recorded from the original."""
  return _shared_folder("goldens")


@pytest.fixture(scope="session")
def shared_data():
  """Folder of the photos with ground truth."""
  return _shared_folder("data")


@pytest.fixture
def interrupts():
  """Lets SIGINT interrupt this process and those that it starts.

  A shell has what it runs in the background ignore it.
  """
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
  """Returns how many processes `-n auto` is; each takes up to 3 GB."""
  cores = os.cpu_count() or 1
  return min(cores, 4) if cores > 1 else 0


def pytest_collection_modifyitems(items):
  """Marks tests by what they need, so that `-m goldens` runs those alone.

  Guides, which take longest, come first: at the end one process would wait.
  """
  items.sort(key=lambda item: "guides_test.py" not in item.nodeid)
  for item in items:
    for name in {"goldens", "shared_data"} & set(item.fixturenames):
      item.add_marker(name)
