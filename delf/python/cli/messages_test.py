import subprocess
import sys


def test_warnings_are_lines_of_the_command():
  code = (
    "from absl import logging\n"
    "from delf.python.cli import messages\n"
    "messages.show_warnings()\n"
    "messages.show_warnings()\n"
    "logging.info('unimportant')\n"
    "logging.warning('%s: cut', 'a.jpg')\n"
  )
  ran = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert ran.stderr == "delf: warning: a.jpg: cut\n"
  assert not ran.stdout
