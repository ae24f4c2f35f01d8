import importlib
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from delf.cli import output


def test_what_json_does_not_have_is_null(capsys):
  document = {"a": [1.5, float("nan"), (float("inf"), "NaN")], "b": True}
  output.print_json(document)
  text = capsys.readouterr().out
  assert json.loads(text) == {"a": [1.5, None, [None, "NaN"]], "b": True}
  assert "Infinity" not in text


def test_warnings_are_lines_of_the_command():
  code = (
    "from absl import logging\n"
    "from delf.cli import output\n"
    "output.show_log()\n"
    "output.show_log()\n"
    "logging.info('unimportant')\n"
    "logging.warning('%s: cut', 'a.jpg')\n"
  )
  assert _stderr(code) == "delf: warning: a.jpg: cut\n"


def test_warnings_of_other_packages_are_lines_too(tmp_path):
  code = (
    "import warnings\n"
    "from delf.cli import output\n"
    "output.show_log()\n"
    "warnings.warn('two\\nlines')\n"
  )
  assert _stderr(code) == "delf: warning: two lines\n"


def test_pillow_is_silent_on_what_the_loader_reports(tmp_path):
  path = tmp_path / "cut.tif"
  Image.new("RGB", (8, 8)).save(path)
  path.write_bytes(path.read_bytes()[:100])
  code = (
    "import sys\n"
    "from delf.base import errors\n"
    "from delf.python import utils\n"
    "from delf.cli import output\n"
    "output.show_log()\n"
    "try:\n"
    f"  utils.RgbLoader({str(path)!r})\n"
    "except errors.InputError as error:\n"
    "  print(error, file=sys.stderr)\n"
  )
  said = _stderr(code)
  assert said.startswith(f"{path}: the image cannot be decoded")
  assert said.count("\n") == 1


def _stderr(code):
  ran = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert not ran.stdout
  return ran.stderr


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
  output.silence_tensorflow()
  module = importlib.import_module("tensorflow")
  assert module.value == 3
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
  os.write(2, b"later")
  assert capfd.readouterr().err == "later"


def test_what_was_said_is_shown_if_loading_fails(noisy_tensorflow, capfd):
  noisy_tensorflow("import os\nos.write(2, b'the cause')\nraise KeyError(1)\n")
  output.silence_tensorflow()
  with pytest.raises(KeyError):
    importlib.import_module("tensorflow")
  assert capfd.readouterr().err == "the cause"


def test_what_was_said_is_dropped_on_an_interrupt(noisy_tensorflow, capfd):
  noisy_tensorflow("import os\nos.write(2, b'x')\nraise KeyboardInterrupt\n")
  output.silence_tensorflow()
  with pytest.raises(KeyboardInterrupt):
    importlib.import_module("tensorflow")
  assert capfd.readouterr().err == ""


def test_the_choice_of_the_user_stands(noisy_tensorflow, capfd, monkeypatch):
  noisy_tensorflow("import os\nos.write(2, b'wanted')\n")
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
  output.silence_tensorflow()
  importlib.import_module("tensorflow")
  assert capfd.readouterr().err == "wanted"
  assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_a_missing_tensorflow_is_an_import_error(noisy_tensorflow, monkeypatch):
  monkeypatch.setattr(sys, "path", [])
  output.silence_tensorflow()
  with pytest.raises(ModuleNotFoundError):
    importlib.import_module("tensorflow")
