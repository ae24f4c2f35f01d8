import subprocess
import sys

import pytest

from tests.stand_ins import warm_python

_SHOW = """
import os, sys
print(sys.argv[1:], sys.stdin.read(), os.getcwd(), os.environ.get("OWN"))
print([name for name in sys.modules if name.split(".")[0] == "delf"])
print(__name__, sys.path[0], "tests" in os.path.basename(sys.path[1]))
"""


@pytest.fixture(scope="module")
def warm():
  with warm_python.serve() as words:
    yield words


def _run(python, words, **options):
  result = subprocess.run(
    [*python, *words], capture_output=True, text=True, **options
  )
  return result.returncode, result.stdout, result.stderr


def _script(folder, text):
  (folder / "script.py").write_text(text)
  return "script.py"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["-c", "-m", "script"])
def test_a_command_runs_as_by_python(warm, tmp_path, way):
  path = _script(tmp_path, _SHOW)
  start = {"-c": ["-c", _SHOW], "-m": ["-m", "script"], "script": [path]}[way]
  options = {"cwd": tmp_path, "input": "in", "env": {"OWN": "a b"}}
  expected = _run([sys.executable], [*start, "--a", "b c"], **options)
  assert expected[0] == 0
  assert _run(warm, [*start, "--a", "b c"], **options) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
  ("code", "status", "words"),
  [
    ("raise SystemExit(3)", 3, ""),
    ("raise SystemExit('bad')", 1, "bad"),
    ("1 / 0", 1, "ZeroDivisionError"),
    ("import os; os.kill(os.getpid(), 9)", 137, ""),
  ],
)
def test_how_a_command_ends_is_told(warm, code, status, words):
  found, _, err = _run(warm, ["-c", code])
  assert found == status
  assert words in err


def test_tensorflow_is_loaded(warm):
  code = "import sys; print('tensorflow' in sys.modules)"
  assert _run(warm, ["-c", code])[1] == "True\n"
