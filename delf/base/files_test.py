import errno
import os
import stat
import subprocess
import sys

import pytest

from delf.base import errors, files


@pytest.fixture
def photos(tmp_path):
  for name in ("b.JPG", "a.png", "sub/c.webp", "sub/.hidden.jpg", "notes.md"):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  return tmp_path / "photos"


def test_images_of_a_folder(photos):
  assert files.find_images(photos) == [
    str(photos / name) for name in ("a.png", "b.JPG", "sub/c.webp")
  ]


def test_images_of_a_pattern(photos):
  assert files.find_images(photos / "*.png") == [str(photos / "a.png")]
  found = files.find_images(f"{photos}/**/*.webp")
  assert found == [str(photos / "sub" / "c.webp")]


def test_a_file_whose_name_is_like_a_pattern(photos):
  path = photos / "a[1].png"
  path.write_bytes(b"x")
  assert files.find_images(path) == [str(path)]


def test_images_of_a_list(photos, tmp_path):
  absolute = str(photos / "b.JPG")
  (tmp_path / "list.txt").write_text(f"{absolute}\n\nphotos/a.png\nnone.jpg\n")
  assert files.find_images(tmp_path / "list.txt") == sorted(
    [absolute, str(tmp_path / "photos" / "a.png"), "none.jpg"]
  )


def test_one_image_whatever_its_name(photos):
  assert files.find_images(photos / "notes.md") == [str(photos / "notes.md")]


def test_nothing_to_find(photos, tmp_path):
  with pytest.raises(FileNotFoundError, match="none.jpg: no such image"):
    files.find_images(tmp_path / "none.jpg")
  with pytest.raises(FileNotFoundError, match="none.txt"):
    files.find_images(tmp_path / "none.txt")
  with pytest.raises(errors.InputError, match=r"\*.gif: no file"):
    files.find_images(photos / "*.gif")
  (tmp_path / "empty").mkdir()
  with pytest.raises(
    errors.InputError, match=r"empty: the folder has no images .*\.png"
  ):
    files.find_images(tmp_path / "empty")
  (tmp_path / "list.txt").write_text("\n\n")
  with pytest.raises(
    errors.InputError, match="list.txt: the list has no paths"
  ):
    files.find_images(tmp_path / "list.txt")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.bin"
  files.write_bytes(path, b"old")
  with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
    temporary.write_bytes(b"half")
    raise RuntimeError
  assert path.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_keeps_it(tmp_path):
  path = tmp_path / "a.bin"
  files.write_bytes(path, b"old")
  with open(path, "rb") as reader:
    files.write_bytes(path, b"new")
    assert reader.read() == b"old"
  assert path.read_bytes() == b"new"


def test_a_link_stays_one(tmp_path):
  (tmp_path / "disk").mkdir()
  for name in ("a.bin", "none.bin"):
    real, link = tmp_path / "disk" / name, tmp_path / name
    link.symlink_to(real)
    if name == "a.bin":
      real.write_bytes(b"old")
    files.write_bytes(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
  assert len(list((tmp_path / "disk").iterdir())) == 2


def test_a_file_that_is_there_keeps_its_mode(tmp_path):
  path = tmp_path / "a.bin"
  path.write_bytes(b"old")
  path.chmod(0o600)
  files.write_bytes(path, b"new")
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  files.write_bytes(tmp_path / "b.bin", b"new")
  (tmp_path / "c.bin").write_bytes(b"new")
  assert (tmp_path / "b.bin").stat().st_mode == (
    tmp_path / "c.bin"
  ).stat().st_mode


@pytest.mark.parametrize("letter", ["a", "é", "山"])
def test_names_as_long_as_the_disk_takes(letter, tmp_path):
  stem = letter * (250 // len(letter.encode()))
  path = tmp_path / f"{stem}.delf"
  files.write_bytes(path, b"new")
  assert path.read_bytes() == b"new"
  with files.atomic_path(path) as temporary:
    temporary.write_bytes(b"half")
    other = temporary.with_name(temporary.name.replace(letter, "b", 1))
    other.write_bytes(b"half")
    assert files.find_leftovers(tmp_path, ["c", stem]) == [temporary]
  assert not files.find_leftovers(tmp_path, [stem])


def test_a_pipe_is_not_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(errors.InputError, match="device or pipe"):
    files.write_bytes(tmp_path / "pipe", b"1")
  assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_leftovers_are_of_the_same_names_alone(tmp_path):
  mark = "0" * 32
  left = [tmp_path / f".a.b.{mark}{end}" for end in ("", ".delg_global")]
  others = [f".a.{mark}.delf", "a.b.delf", ".a.b.delf", f".a.b.{mark[1:]}"]
  for path in (*left, *(tmp_path / name for name in others)):
    path.write_bytes(b"")
  assert sorted(files.find_leftovers(tmp_path, ["a.b", "b"])) == left
  assert files.find_leftovers(tmp_path / "none", ["a.b"]) == []


def test_errors_of_writing_name_the_file_to_be(tmp_path):
  path = tmp_path / "a.bin"
  for name in (None, "temporary", str(tmp_path / "other")):
    with pytest.raises(OSError) as caught, files.atomic_path(path) as temporary:
      if name == "temporary":
        name = temporary
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    assert caught.value.errno == errno.ENOSPC
    other = name is not None and "other" in str(name)
    assert caught.value.filename == (name if other else str(path))
  (tmp_path / "a.bin").mkdir()
  with pytest.raises(IsADirectoryError) as caught:
    files.write_bytes(path, b"new")
  assert errors.one_line(caught.value) == f"{path}: Is a directory"
  assert list(tmp_path.iterdir()) == [path]


def test_addresses_of_files(tmp_path):
  address = f"file://{tmp_path}/new/folder/a.bin"
  with pytest.raises(FileNotFoundError, match=f"{address}: no such file"):
    files.read_bytes(address)
  files.write_bytes(address, b"ne", b"w")
  assert files.read_bytes(address) == b"new"
  assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"new"
  with pytest.raises(errors.InputError, match="directory"):
    files.read_bytes(f"file://{tmp_path}")


@pytest.mark.parametrize("address", ["http://example.com/a", "nothing://a/b"])
def test_addresses_that_nobody_reads(address):
  for call in (files.read_bytes, lambda path: files.write_bytes(path, b"x")):
    with pytest.raises(errors.InputError, match="gs://") as caught:
      call(address)
    assert str(caught.value).startswith(f"{address}: TensorFlow")
    assert "\n" not in str(caught.value)


def test_lines_of_a_list(tmp_path):
  path = tmp_path / "list.txt"
  path.write_bytes(b"\xef\xbb\xbf a \r\n\r\nb")
  assert files.read_lines(path) == ["a", "b"]
  path.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(errors.InputError, match="list.txt"):
    files.read_lines(path)


_HOLD = """
import sys, time
from delf.base import files
with files.lock_folder(sys.argv[1]):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture(params=["posix", "file"])
def folder(request, tmp_path, monkeypatch):
  """A folder that is locked itself, or by a file as on Windows."""
  if request.param == "file":
    monkeypatch.setattr(files, "_LOCKS_FOLDERS", False)
  return tmp_path


def test_one_run_at_a_time(folder):
  with (
    files.lock_folder(folder),
    pytest.raises(errors.InputError, match="another run is changing"),
    files.lock_folder(folder),
  ):
    pass
  with files.lock_folder(folder):
    pass


def test_a_killed_run_does_not_count(tmp_path):
  command = [sys.executable, "-c", _HOLD, str(tmp_path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == "held\n"
    with pytest.raises(errors.InputError), files.lock_folder(tmp_path):
      pass
    other.kill()
  with files.lock_folder(tmp_path, wait=True):
    pass
