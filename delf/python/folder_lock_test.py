import subprocess
import sys

import pytest

from delf.python import errors, folder_lock

_HOLD = """
import sys, time
from delf.python import folder_lock
with folder_lock.alone(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


def test_one_run_at_a_time(tmp_path):
  with (
    folder_lock.alone(tmp_path),
    pytest.raises(errors.InputError, match="no other run is changing"),
    folder_lock.alone(tmp_path),
  ):
    pass
  with folder_lock.alone(tmp_path):
    pass


def test_a_killed_run_does_not_count(tmp_path):
  command = [sys.executable, "-c", _HOLD, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == "held\n"
    with pytest.raises(errors.InputError), folder_lock.alone(tmp_path):
      pass
    other.kill()
  with folder_lock.alone(tmp_path, wait=True):
    pass
