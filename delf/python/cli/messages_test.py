import subprocess
import sys

from PIL import Image


def test_warnings_are_lines_of_the_command():
  code = (
    "from absl import logging\n"
    "from delf.python.cli import messages\n"
    "messages.show_warnings()\n"
    "messages.show_warnings()\n"
    "logging.info('unimportant')\n"
    "logging.warning('%s: cut', 'a.jpg')\n"
  )
  assert _stderr(code) == "delf: warning: a.jpg: cut\n"


def test_warnings_of_other_packages_are_lines_too(tmp_path):
  code = (
    "import warnings\n"
    "from delf.python.cli import messages\n"
    "messages.show_warnings()\n"
    "warnings.warn('two\\nlines')\n"
  )
  assert _stderr(code) == "delf: warning: two lines\n"


def test_pillow_is_silent_on_what_the_loader_reports(tmp_path):
  path = tmp_path / "cut.tif"
  Image.new("RGB", (8, 8)).save(path)
  path.write_bytes(path.read_bytes()[:100])
  code = (
    "import sys\n"
    "from delf.python import errors, utils\n"
    "from delf.python.cli import messages\n"
    "messages.show_warnings()\n"
    "try:\n"
    f"  utils.RgbLoader({str(path)!r})\n"
    "except errors.InputError as error:\n"
    "  print(error, file=sys.stderr)\n"
  )
  said = _stderr(code)
  assert said.startswith(f"{path}: expected an image")
  assert said.count("\n") == 1


def _stderr(code):
  ran = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert not ran.stdout
  return ran.stderr
