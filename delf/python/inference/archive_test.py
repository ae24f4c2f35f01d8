import io
import tarfile

import pytest

from delf.python import errors
from delf.python.inference import archive


def _write(path, members, mode="w:gz"):
  """Writes an archive of {name: bytes, None for a folder, or TarInfo}."""
  with tarfile.open(path, mode) as tar:
    for name, content in members.items():
      if isinstance(content, tarfile.TarInfo):
        tar.addfile(content)
        continue
      info = tarfile.TarInfo(name)
      if content is None:
        info.type = tarfile.DIRTYPE
      else:
        info.size = len(content)
      tar.addfile(info, io.BytesIO(content or b""))
  return path


def _special(name, kind, target=""):
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, target
  return info


def _tree(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_top_folder_of_that_name_is_the_folder(tmp_path, mode):
  members = {"model": None, "model/a": b"1", "model/sub/b": b"22"}
  path = _write(tmp_path / "x", members, mode)
  archive.unpack(path, tmp_path / "out" / "model")
  assert _tree(tmp_path / "out") == {"model/a": b"1", "model/sub/b": b"22"}


@pytest.mark.parametrize(
  "members",
  [
    {"k1024/codebook.index": b"1"},
    {"./k1024/codebook.index": b"1"},
    {".": None, "k1024": None, "k1024/codebook.index": b"1"},
  ],
)
def test_other_content_gets_a_top_folder(tmp_path, members):
  path = _write(tmp_path / "x", members)
  archive.unpack(path, tmp_path / "out" / "codebook")
  assert _tree(tmp_path / "out") == {"codebook/k1024/codebook.index": b"1"}


def test_replaces_what_is_there(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "old").write_bytes(b"")
  archive.unpack(_write(tmp_path / "x", {"new": b"1"}), tmp_path / "out")
  assert _tree(tmp_path) == {
    "out/new": b"1",
    "x": (tmp_path / "x").read_bytes(),
  }


def _tarbomb(path):
  return _write(path, {f"f{i}": b"x" * 10 for i in range(10)})


BAD = {
  "parent": lambda p: _write(p, {"../evil": b"1"}),
  "parent inside": lambda p: _write(p, {"a/../../evil": b"1"}),
  "absolute": lambda p: _write(p, {"/tmp/delf_evil": b"1"}),
  "drive": lambda p: _write(p, {"C:/evil": b"1"}),
  "backslash": lambda p: _write(p, {"..\\evil": b"1"}),
  "symbolic link": lambda p: _write(
    p, {"a": _special("a", tarfile.SYMTYPE, ".."), "a/evil": b"1"}
  ),
  "hard link": lambda p: _write(
    p, {"a": _special("a", tarfile.LNKTYPE, "../x")}
  ),
  "device": lambda p: _write(p, {"a": _special("a", tarfile.CHRTYPE)}),
  "fifo": lambda p: _write(p, {"a": _special("a", tarfile.FIFOTYPE)}),
  "too many": lambda p: _write(p, {f"f{i}": b"" for i in range(21)}),
  "too large": lambda p: _write(p, {"a": b"x" * 60, "b": b"x" * 60}),
  "nothing in it": lambda p: _write(p, {}),
  "lacks what is needed": lambda p: _write(p, {"b": b""}),
  "a web page": lambda p: p.write_bytes(b"<html>Please log in</html>") and p,
  "an empty file": lambda p: p.write_bytes(b"") or p,
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_leave_nothing(tmp_path, case):
  path = BAD[case](tmp_path / "x")
  (tmp_path / "in").mkdir()
  with pytest.raises(errors.InputError) as error:
    archive.unpack(
      path, tmp_path / "in" / "out", "[af]*", max_bytes=100, max_members=20
    )
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)
  assert _tree(tmp_path) == {"x": path.read_bytes()}
  assert list((tmp_path / "in").iterdir()) == []


def test_archives_cut_anywhere(tmp_path):
  whole = _write(tmp_path / "x", {"a": bytes(range(256)) * 9}).read_bytes()
  cut = tmp_path / "cut"
  for size in range(0, len(whole), 7):
    cut.write_bytes(whole[:size])
    with pytest.raises(errors.InputError):
      archive.unpack(cut, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_changed_byte_is_found(tmp_path):
  whole = bytearray(_write(tmp_path / "x", {"a": b"abc" * 999}).read_bytes())
  whole[-6] ^= 1  # In the checksum at the end.
  (tmp_path / "x").write_bytes(whole)
  with pytest.raises(errors.InputError, match="cannot be read"):
    archive.unpack(tmp_path / "x", tmp_path / "out")


def test_modes_are_not_taken_over(tmp_path):
  info = tarfile.TarInfo("a")
  info.mode = 0o4777
  archive.unpack(_write(tmp_path / "x", {"a": info}), tmp_path / "out")
  assert (tmp_path / "out" / "a").stat().st_mode & 0o7111 == 0
