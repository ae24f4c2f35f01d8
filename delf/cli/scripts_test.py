import logging
import os

import pytest
from absl import flags

from delf.base import errors
from delf.cli import scripts


def _define():
  flags.DEFINE_string("some_path", "/tmp/here", "A path.")
  flags.DEFINE_boolean("some_switch", False, "A switch.")
  flags.DEFINE_integer("some_number", 3, "A number.")


def _run(*argv, main=None):
  seen = {}

  def record():
    for name in ("some_path", "some_switch", "some_number"):
      seen[name] = flags.FLAGS[name].value

  with pytest.raises(SystemExit) as end:
    scripts.run(main or record, _define, ["script", *argv])
  return end.value.code, seen


def test_flags_reach_main_and_are_gone_afterwards():
  for _ in range(2):
    status, seen = _run("--some_path=/a", "--some_number", "7")
    assert not status
    assert seen == {"some_path": "/a", "some_switch": False, "some_number": 7}
    assert "some_path" not in flags.FLAGS


@pytest.mark.parametrize(
  ("argv", "value"),
  [
    (["--some_switch"], True),
    (["--nosome_switch"], False),
    (["--some_switch=true"], True),
    (["--some_switch", "True"], True),
    (["--some_switch", "False"], False),
    (["-some_switch", "false", "--some_number=1"], False),
    (["--some_switch", "--some_number", "1"], True),
  ],
)
def test_boolean_forms(argv, value):
  status, seen = _run(*argv)
  assert not status
  assert seen["some_switch"] is value


def test_numbers_that_look_like_booleans_stay_with_their_flag():
  _, seen = _run("--some_number", "1", "--some_path", "true")
  assert seen == {"some_path": "true", "some_switch": False, "some_number": 1}


def test_positional_arguments_are_refused(capsys):
  status, _ = _run("stray")
  assert status == 1
  assert "stray" in capsys.readouterr().err


def test_unknown_flags_are_refused(capsys):
  status, _ = _run("--other=1")
  assert status == 1
  assert "other" in capsys.readouterr().err


@pytest.mark.parametrize(
  "error",
  [
    errors.InputError("a poem, not a photo", path="x.txt"),
    FileNotFoundError("x.txt"),
    PermissionError(13, "Permission denied", "x.txt"),
    OSError("x.txt:\nbroken"),
  ],
)
def test_bad_input_is_one_line(capsys, error):
  def main():
    raise error

  status, _ = _run(main=main)
  assert status == 1
  text = capsys.readouterr().err
  assert text.count("\n") == 1 and "x.txt" in text and "Traceback" not in text


def test_status_of_main_is_the_exit_status():
  assert _run(main=lambda: 3)[0] == 3


def test_an_interrupt_is_one_line(capsys):
  def interrupt():
    raise KeyboardInterrupt

  status, _ = _run(main=interrupt)
  assert status == 130
  assert capsys.readouterr().err.endswith("interrupted\n")


def test_what_tensorflow_tells_of_its_files_is_left_out():
  def told(path, level):
    record = logging.LogRecord("absl", level, path, 1, "words", (), None)
    return bool(logging.getLogger("absl").filter(record))

  _run(main=lambda: 0)
  theirs = os.path.join("site", "tensorflow", "saver.py")
  assert not told(theirs, logging.INFO)
  assert told(theirs, logging.WARNING)
  assert told(os.path.join("delf", "live.py"), logging.INFO)
