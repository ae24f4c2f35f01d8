import importlib
import os
import sys

import pytest

from delf.python.cli import quiet


@pytest.fixture
def noisy_tensorflow(tmp_path, monkeypatch):
  """Gives a function that puts a module `tensorflow` of given source first."""
  # The real one may be loaded already; it comes back at the end.
  monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
  for name in [n for n in sys.modules if n.partition(".")[0] == "tensorflow"]:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)

  def write(source):
    (tmp_path / "tensorflow.py").write_text(source)
    importlib.invalidate_caches()

  yield write
  sys.modules.pop("tensorflow", None)


def test_loading_tensorflow_is_silent(noisy_tensorflow, capfd):
  noisy_tensorflow("import os\nos.write(2, b'noise')\nvalue = 3\n")
  quiet.silence_tensorflow()
  module = importlib.import_module("tensorflow")
  assert module.value == 3
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
  os.write(2, b"later")
  assert capfd.readouterr().err == "later"


def test_what_was_said_is_shown_if_loading_fails(noisy_tensorflow, capfd):
  noisy_tensorflow("import os\nos.write(2, b'the cause')\nraise KeyError(1)\n")
  quiet.silence_tensorflow()
  with pytest.raises(KeyError):
    importlib.import_module("tensorflow")
  assert capfd.readouterr().err == "the cause"


def test_what_was_said_is_dropped_on_an_interrupt(noisy_tensorflow, capfd):
  noisy_tensorflow("import os\nos.write(2, b'x')\nraise KeyboardInterrupt\n")
  quiet.silence_tensorflow()
  with pytest.raises(KeyboardInterrupt):
    importlib.import_module("tensorflow")
  assert capfd.readouterr().err == ""


def test_the_choice_of_the_user_stands(noisy_tensorflow, capfd, monkeypatch):
  noisy_tensorflow("import os\nos.write(2, b'wanted')\n")
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
  quiet.silence_tensorflow()
  importlib.import_module("tensorflow")
  assert capfd.readouterr().err == "wanted"
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_a_missing_tensorflow_is_an_import_error(noisy_tensorflow, monkeypatch):
  monkeypatch.setattr(sys, "path", [])
  quiet.silence_tensorflow()
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module("tensorflow")
