"""`download_dataset.sh` against a local server: ended, repeated, refused."""

import hashlib
import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from delf.downloads import published
from tests.stand_ins import checkout, faulty_server

_SCRIPT = checkout.ROOT / "delf" / "python" / "training" / "download_dataset.sh"
_PHOTO = os.urandom(500_000)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs bash")


def _tar(*names):
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w") as archive:
    for name in names:
      info = tarfile.TarInfo(name)
      info.size = len(_PHOTO)
      archive.addfile(info, io.BytesIO(_PHOTO))
  return buffer.getvalue()


def _add(site, split, number, archive):
  name = f"images_{number:03d}"
  md5 = hashlib.md5(archive).hexdigest()
  site.files[f"/{split}/{name}.tar"] = archive
  site.files[f"/md5sum/{split}/md5.{name}.txt"] = f"{md5}  {name}\n".encode()


@pytest.fixture
def site():
  """A site with two parts of train, one of index and one of test."""
  with faulty_server.serve() as site:
    texts = [t for split in published.SPLITS.values() for t in split.texts]
    site.files = {f"/{text}": b"id,x\n" for text in texts}
    for split, count in (("train", 2), ("index", 1), ("test", 1)):
      for number in range(count):
        _add(site, split, number, _tar(f"{split}/{number}.jpg"))
    yield site


def _start(site, tmp_path, *words):
  """Starts the script in a folder `run`, in a group of its own."""
  binaries, folder = tmp_path / "bin", tmp_path / "run"
  if not binaries.exists():
    binaries.mkdir()
    folder.mkdir()
    python = binaries / "python3"
    python.write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
  environment = {
    **os.environ,
    "PATH": os.pathsep.join([str(binaries), os.environ["PATH"]]),
    "PYTHONPATH": str(checkout.ROOT),
  }
  return subprocess.Popen(
    ["bash", str(_SCRIPT), *words, "--mirror", site.root],
    cwd=folder,
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )


def _run(site, tmp_path, *words):
  process = _start(site, tmp_path, *words)
  out, err = process.communicate()
  return process.returncode, out, err


def _photos(tmp_path):
  folder = tmp_path / "run" / "gldv2_dataset"
  assert all(path.read_bytes() == _PHOTO for path in folder.rglob("*.jpg"))
  return sorted(
    path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")
  )


def test_killed_within_an_archive_and_repeated(site, tmp_path):
  path = "/train/images_001.tar"
  half = 2**18  # What is read, and written, at once.
  site.holds = {path: half}
  process = _start(site, tmp_path, "2", "1", "1")
  work = tmp_path / "run" / ".downloads"
  part = work / "train_images_001.tar.part"
  record = work / "train_images_000.tar.done.json"
  begin = time.monotonic()
  while not (record.exists() and part.exists() and part.stat().st_size == half):
    assert process.poll() is None and time.monotonic() - begin < 60
    time.sleep(0.01)
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  site.released.set()
  assert _photos(tmp_path) == ["train/train/0.jpg"]

  asked = len(site.paths)
  status, out, err = _run(site, tmp_path, "2", "1", "1")
  assert (status, err) == (0, "")
  assert "train/images_000.tar: already there" in out
  assert "[7/7]" in out
  again = dict(zip(site.paths[asked:], site.requests[asked:], strict=True))
  assert again[path] == f"bytes={half}-"
  assert "/train/images_000.tar" not in again
  assert "/metadata/train.csv" not in again
  assert _photos(tmp_path) == [
    "index/index/0.jpg",
    "test/test/0.jpg",
    "train/train/0.jpg",
    "train/train/1.jpg",
  ]
  # The files that the other commands look for.
  folder = tmp_path / "run" / "gldv2_dataset"
  for name in ("train/train_clean.csv", "test/recognition_solution_v2.1.csv"):
    assert (folder / name).read_bytes() == b"id,x\n"


def test_what_fails_is_named_and_the_rest_is_done(site, tmp_path):
  site.files["/md5sum/train/md5.images_000.txt"] = b"0" * 32
  del site.files["/index/images_000.tar"]
  _add(site, "test", 0, _tar("../../../evil.jpg"))
  status, out, err = _run(site, tmp_path, "2", "1", "1")
  assert status == 1
  lines = err.splitlines()
  assert len(lines) == 3
  assert "train/images_000.tar" in lines[0] and "--ignore-checksum" in lines[0]
  kept = tmp_path / "run" / ".downloads" / "train_images_000.tar.unexpected"
  assert kept.name in lines[0] and kept.exists()
  assert "index/images_000.tar" in lines[1] and "404" in lines[1]
  assert "a name that leads out of it" in lines[2] and "evil.jpg" in lines[2]
  assert _photos(tmp_path) == ["train/train/1.jpg"]
  assert not list(tmp_path.rglob("evil.jpg"))


@pytest.mark.parametrize(
  ("words", "problem"),
  [
    ((), "three numbers: TRAIN INDEX TEST, received 2"),
    (("501", "0", "0"), "0 to 500 for train, received '501'"),
    (("1", "101", "0"), "0 to 100 for index, received '101'"),
    (("1", "1", "21"), "0 to 20 for test, received '21'"),
    (("1", "-1", "0"), "0 to 100 for index, received '-1'"),
    (("1", "0", "all"), "0 to 20 for test, received 'all'"),
  ],
)
def test_counts_that_are_none(site, tmp_path, words, problem):
  status, out, err = _run(site, tmp_path, *words)
  assert (status, out) == (1, "")
  assert err.count("\n") == 1 and problem in err
  assert not site.paths and not list(pathlib.Path(tmp_path, "run").iterdir())
