import argparse
import json
import os
import subprocess
import sys
import types

import pytest

import delf
from delf.base import errors
from delf.cli import main


@pytest.fixture
def command(monkeypatch):
  """Gives a function that installs a sub-command `try` which does as told."""

  def install(run, add_arguments=lambda parser: None):
    module = types.ModuleType("delf_cli_try")
    module.run = run
    module.add_arguments = add_arguments
    module.EXAMPLES = None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(main.COMMANDS, "try", (module.__name__, "try it"))

  monkeypatch.delenv("DELF_DEBUG", raising=False)
  monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
  return install


def _raiser(error):
  def run(args):
    raise error

  return run


def test_help_names_every_command_and_loads_nothing_heavy():
  code = (
    "import json, sys\n"
    "from delf.cli import main\n"
    "try:\n"
    "  main.main(['--help'])\n"
    "except SystemExit as end:\n"
    "  assert end.code == 0\n"
    "print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))\n"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  *help_lines, modules = result.stdout.splitlines()
  for name in main.COMMANDS:
    assert any(line.split()[:1] == [name] for line in help_lines), name
  heavy = {"tensorflow", "keras", "numpy", "cv2", "PIL", "google", "tqdm"}
  assert not heavy & set(json.loads(modules))


def test_python_dash_m_delf_prints_the_version():
  result = subprocess.run(
    [sys.executable, "-m", "delf", "--version"],
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout == f"delf {delf.__version__}\n"


def test_every_command_has_its_module_with_examples(capsys):
  for name in main.COMMANDS:
    with pytest.raises(SystemExit) as end:
      main.main([name, "--help"])
    assert end.value.code == 0
    assert "example" in capsys.readouterr().out, name


def test_runs_the_command_with_its_arguments(command, capsys):
  seen = []
  command(
    lambda args: seen.append(args.word),
    lambda parser: parser.add_argument("--word"),
  )
  assert main.main(["try", "--word", "a"]) == 0
  assert seen == ["a"]
  assert capsys.readouterr() == ("", "")


def test_status_of_the_command_is_returned(command):
  command(lambda args: 1)
  assert main.main(["try"]) == 1


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (errors.InputError("a song,\nnot a photo", path="x.jpg"),) * 1
    + ("x.jpg: a song, not a photo",),
    (FileNotFoundError("x: no such file"),) + ("x: no such file",),
    (PermissionError(13, "Permission denied", "out"),)
    + ("out: Permission denied",),
    (OSError(28, "No space left on device"), "No space left on device"),
    (
      ModuleNotFoundError("No module named 'cv2'", name="cv2"),
      "the Python package cv2 is missing; `delf doctor` checks all packages",
    ),
  ],
)
def test_errors_of_the_user_are_one_line(command, capsys, error, line):
  command(_raiser(error))
  assert main.main(["try"]) == 1
  assert capsys.readouterr() == ("", f"delf: error: {line}\n")


@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_debug_shows_the_traceback(command, capsys, monkeypatch, where):
  command(_raiser(errors.InputError("a is not b")))
  if where == "environment":
    monkeypatch.setenv("DELF_DEBUG", "1")
  argv = {"before": ["--debug", "try"], "after": ["try", "--debug"]}
  assert main.main(argv.get(where, ["try"])) == 1
  stderr = capsys.readouterr().err
  assert stderr.startswith("Traceback")
  assert stderr.endswith("delf: error: a is not b\n")


@pytest.mark.parametrize(
  "error", [KeyError("x"), ModuleNotFoundError("no", name="delf.python.gone")]
)
def test_our_own_faults_keep_their_traceback(command, capsys, error):
  command(_raiser(error))
  assert main.main(["try"]) == 1
  stderr = capsys.readouterr().err
  assert stderr.startswith("Traceback")
  assert "a fault in delf itself" in stderr


def test_interrupt(command, capsys):
  command(_raiser(KeyboardInterrupt()))
  assert main.main(["try"]) == 130
  assert capsys.readouterr().err == "delf: error: interrupted\n"


def test_broken_pipe_is_quiet():
  code = (
    "import sys, types\n"
    "from delf.cli import main\n"
    "module = types.ModuleType('flood')\n"
    "module.add_arguments = lambda parser: None\n"
    "module.EXAMPLES = None\n"
    "module.run = lambda args: [print('x' * 80) for _ in range(9999)] and 0\n"
    "sys.modules['flood'] = module\n"
    "main.COMMANDS['flood'] = ('flood', 'flood')\n"
    "sys.exit(main.main(['flood']))\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )
  process.stdout.readline()
  process.stdout.close()
  assert process.stderr.read() == b""
  assert process.wait() == 141
  process.stderr.close()


def test_closed_standard_output_is_no_fault(command, monkeypatch):
  command(lambda args: 0)
  monkeypatch.setattr(sys, "stdout", None)
  assert main.main(["try"]) == 0


def test_names_that_the_encoding_lacks_are_escaped(tmp_path):
  environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
  result = subprocess.run(
    [sys.executable, "-m", "delf", "info", str(tmp_path / "\u00e9.delf")],
    env=environment,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert "\\xe9.delf: no such file" in result.stderr
  assert "Traceback" not in result.stderr


@pytest.mark.parametrize("argv", [["no-such-command"], ["try", "--no"]])
def test_usage_errors(command, capsys, argv):
  command(lambda args: 0)
  with pytest.raises(SystemExit) as end:
    main.main(argv)
  assert end.value.code == 2
  assert "usage: delf" in capsys.readouterr().err


def test_the_command_alone_shows_its_help(capsys):
  with pytest.raises(SystemExit) as end:
    main.main([])
  assert end.value.code == 0
  assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize(
  "argv", [["help"], ["help", "search"], ["help", "fit", "pca"]]
)
def test_help_of_a_command(argv, capsys):
  with pytest.raises(SystemExit) as end:
    main.main(argv)
  assert end.value.code == 0
  assert f"usage: {' '.join(['delf', *argv[1:]])} " in capsys.readouterr().out


@pytest.mark.parametrize(
  ("argv", "hint"),
  [
    (["serch", "x"], "did you mean search"),
    (["search", "x.index", "a.jpg", "--verfy"], "did you mean --verify"),
    (["match", "a.jpg", "b.jpg", "--ratoi=0.9"], "did you mean --ratio"),
    (["search", "x", "a", "--method", "globl"], "did you mean global"),
  ],
)
def test_misspelt_names_are_suggested(argv, hint, capsys):
  with pytest.raises(SystemExit) as end:
    main.main(argv)
  assert end.value.code == 2
  assert hint in capsys.readouterr().err


def test_an_interrupt_says_how_to_resume(monkeypatch, capsys):
  def interrupt(*args, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr("delf.api.work.extract", interrupt)
  argv = ["extract", "my photos", "--out", "out"]
  assert main.main(argv) == errors.INTERRUPTED
  hint = "to resume, repeat: delf extract 'my photos' --out out"
  assert hint in capsys.readouterr().err


def test_quiet_and_verbose(command, monkeypatch, capsys):
  from delf.base import progress

  shown = []
  command(lambda args: shown.append(progress.is_shown()))
  assert main.main(["try", "--quiet"]) == main.main(["--verbose", "try"]) == 0
  assert shown == [False, True]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completions_name_commands_and_options(shell, capsys):
  assert main.main(["completion", shell]) == 0
  text = capsys.readouterr().out
  assert "search" in text and "verify-top" in text


def test_colour_is_for_terminals(monkeypatch, capsys):
  from delf.cli import output

  output.error("no")
  assert capsys.readouterr().err == "delf: error: no\n"
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
  monkeypatch.delenv("NO_COLOR", raising=False)
  monkeypatch.setenv("TERM", "xterm")
  output.error("no")
  assert "\033[31merror\033[0m" in capsys.readouterr().err
  monkeypatch.setenv("NO_COLOR", "1")
  output.error("no")
  assert capsys.readouterr().err == "delf: error: no\n"


def test_parser_without_a_command_is_complete_enough_for_usage():
  parser = main.make_parser()
  assert isinstance(parser, argparse.ArgumentParser)
  assert "delf demo" in parser.format_help()
