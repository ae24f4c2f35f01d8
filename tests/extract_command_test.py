"""Extraction as users start it: the command and the script, with a model."""

import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

import delf
from delf.cli import main
from delf.extraction import extract
from delf.python import datum_io, feature_io
from tests.stand_ins import tiny_model

_EXAMPLES = pathlib.Path(delf.__file__).parent / "python" / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "tiny"
  tiny_model.save(folder)
  return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """Folder of twelve images in three sizes, two of them in a sub-folder."""
  folder = tmp_path_factory.mktemp("photos")
  generator = np.random.default_rng(4)
  for i in range(12):
    path = folder / ("deep" if i > 9 else ".") / f"{i}.png"
    path.parent.mkdir(exist_ok=True)
    shape = [[96, 128, 3], [128, 96, 3], [100, 100, 3]][i % 3]
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
  return folder


def _argv(photos, out, model, *more):
  config = str(model / "config.pbtxt")
  argv = ["extract", str(photos), "--out", str(out), "--config", config]
  return argv + [str(word) for word in more]


def _read_all(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.fixture(scope="module")
def whole(photos, model, tmp_path_factory):
  """Output folder of an extraction that nothing disturbed."""
  out = tmp_path_factory.mktemp("whole")
  assert main.main(_argv(photos, out, model)) == 0
  return out


def test_every_image_has_its_files(whole, photos):
  names = {p.relative_to(photos).with_suffix("") for p in photos.rglob("*.png")}
  found = {p.relative_to(whole).with_suffix("") for p in whole.rglob("*.delf")}
  assert len(names) == 12
  assert found == names
  local = feature_io.ReadFromFile(str(whole / "deep" / "10.delf"))
  assert len(local[0]) == 50
  norms = np.linalg.norm(local[2], axis=1)
  np.testing.assert_allclose(norms, 1, atol=1e-5)
  descriptor = datum_io.ReadFromFile(str(whole / "deep" / "10.delg_global"))
  np.testing.assert_allclose(np.linalg.norm(descriptor), 1, atol=1e-5)


def test_batches_equal_single_images(whole, photos, model, tmp_path):
  # As BatchExtractor states it.
  assert main.main(_argv(photos, tmp_path, model, "--batch", 4)) == 0
  for path in whole.rglob("*.delf"):
    single = feature_io.ReadFromFile(str(path))
    batch = feature_io.ReadFromFile(str(tmp_path / path.relative_to(whole)))
    np.testing.assert_array_equal(single[0], batch[0])
    np.testing.assert_allclose(single[2], batch[2], atol=1e-5)


def test_json_and_what_is_done_already(whole, photos, model, capsys):
  before = _read_all(whole)
  assert main.main(_argv(photos, whole, model, "--json")) == 0
  found = json.loads(capsys.readouterr().out)
  assert len(found["skipped"]) == 12
  assert found["done"] == found["failed"] == []
  assert _read_all(whole) == before


def test_the_summary_says_device_and_speed(photos, model, tmp_path, capsys):
  argv = _argv(photos / "deep", tmp_path, model, "--device", "cpu")
  assert main.main(argv) == 0
  out, err = capsys.readouterr()
  assert "2 extracted" in out
  assert "images/s on" in out
  assert "CPU" in out
  assert not err


@pytest.mark.parametrize(
  ("option", "extension"),
  [("--local-only", ".delf"), ("--global-only", ".delg_global")],
)
def test_one_kind_alone(photos, model, tmp_path, whole, option, extension):
  assert main.main(_argv(photos / "deep", tmp_path, model, option)) == 0
  kinds = {path.suffix for path in tmp_path.rglob("*")} - {".json", ".jsonl"}
  assert kinds == {extension}
  name = f"10{extension}"
  assert (tmp_path / name).read_bytes() == (whole / "deep" / name).read_bytes()


@pytest.mark.slow
def test_killed_at_any_moment_and_repeated_gives_the_same_files(
  photos, model, whole, tmp_path
):
  moments = random.Random(7)
  command = [sys.executable, "-m", "delf", *_argv(photos, tmp_path, model)]
  killed = 0
  for _ in range(3):
    process = subprocess.Popen(
      command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # The start takes seconds: wait for the first file, and then a moment.
    number = len(list(tmp_path.rglob("*.delf")))
    while process.poll() is None:
      if len(list(tmp_path.rglob("*.delf"))) > number:
        break
      time.sleep(0.002)
    time.sleep(moments.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    killed += process.wait() == -signal.SIGKILL
    # What is there under a final name is whole.
    for path in tmp_path.rglob("[!.]*.delf"):
      name = path.relative_to(tmp_path)
      assert path.read_bytes() == (whole / name).read_bytes()
  assert killed
  assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
  found, expected = _read_all(tmp_path), _read_all(whole)
  recorded = set(found.pop(extract.PHOTOS).splitlines())
  # A run may have been killed between an image's files and its line.
  every = set(expected.pop(extract.PHOTOS).splitlines())
  assert len(every - recorded) <= killed
  assert found == expected


@pytest.mark.slow
def test_interrupted_by_the_user(photos, model, tmp_path, interrupts):
  process = subprocess.Popen(
    [sys.executable, "-m", "delf", *_argv(photos, tmp_path, model, "--json")],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  while process.poll() is None and not list(tmp_path.rglob("*.delf")):
    time.sleep(0.002)
  process.send_signal(signal.SIGINT)
  out, err = process.communicate(timeout=60)
  found = json.loads(out)
  if found["interrupted"]:  # Else it was done before the signal came.
    assert process.returncode == 130
  assert b"Traceback" not in err
  assert len(list(tmp_path.rglob("*.delf"))) == len(found["done"])


def _script(folder, start, *flags, **options):
  return subprocess.run(
    [sys.executable, *start, *map(str, flags)],
    cwd=folder,
    capture_output=True,
    text=True,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    **options,
  )


@pytest.mark.slow
def test_the_script_from_its_folder(photos, model, whole, tmp_path):
  listed = tmp_path / "list.txt"
  listed.write_text(
    f"{photos}/0.png\n{photos}/deep/10.png\n{photos}/none.png\n"
  )
  result = _script(
    _EXAMPLES,
    ["extract_features.py"],
    "--config_path",
    model / "config.pbtxt",
    f"--list_images_path={listed}",
    f"--output_dir={tmp_path / 'out'}",
  )
  assert result.returncode == 1
  assert "2 extracted, 0 already there, 1 failed" in result.stdout
  assert f"{photos}/none.png" in result.stderr
  assert "Traceback" not in result.stderr
  for name in ("0", "10"):
    (expected,) = whole.rglob(f"{name}.delf")
    found = tmp_path / "out" / f"{name}.delf"
    assert found.read_bytes() == expected.read_bytes()


def _limit_file_size():
  # Less than a feature file has, more than the record of settings.
  resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["command", "script"])
def test_images_that_failed_are_named_also_when_files_cannot_be_written(
  photos, model, tmp_path, kind
):
  listed = tmp_path / "list.txt"
  listed.write_text(f"{photos}/none.png\n{photos}/1.png\n")
  out = tmp_path / "out"
  if kind == "command":
    start = ["-m", "delf", *_argv(listed, out, model)]
  else:
    start = [
      "extract_features.py",
      f"--config_path={model}/config.pbtxt",
      f"--list_images_path={listed}",
      f"--output_dir={out}",
      "--device=cpu",
    ]
  result = _script(_EXAMPLES, start, preexec_fn=_limit_file_size)
  assert result.returncode == 1
  failed, reason = result.stderr.splitlines()[-2:]
  assert f"{photos}/none.png" in failed
  assert "File too large" in reason
  assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_script_on_a_device_that_is_not_there(photos, model, tmp_path):
  listed = tmp_path / "list.txt"
  listed.write_text(f"{photos}/1.png\n")
  result = _script(
    _EXAMPLES,
    ["extract_features.py"],
    f"--config_path={model}/config.pbtxt",
    f"--list_images_path={listed}",
    f"--output_dir={tmp_path / 'out'}",
    "--device=gpu:7",
  )
  assert result.returncode == 1
  assert "'gpu:7'" in result.stderr.splitlines()[-1]


def test_the_script_as_a_module(tmp_path):
  # Its defaults are relative to the current folder, where nothing is.
  result = _script(tmp_path, ["-m", "delf.python.examples.extract_features"])
  assert result.returncode == 1
  assert "list_images.txt: no such file" in result.stderr
  assert "Traceback" not in result.stderr
