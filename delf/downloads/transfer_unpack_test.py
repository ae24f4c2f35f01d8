import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pytest

from delf.base import errors
from delf.downloads import transfer


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
  transfer.unpack(path, tmp_path / "out" / "model")
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
  transfer.unpack(path, tmp_path / "out" / "codebook")
  assert _tree(tmp_path / "out") == {"codebook/k1024/codebook.index": b"1"}


def test_replaces_what_is_there(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "old").write_bytes(b"")
  transfer.unpack(_write(tmp_path / "x", {"new": b"1"}), tmp_path / "out")
  assert _tree(tmp_path) == {
    "out/new": b"1",
    "x": (tmp_path / "x").read_bytes(),
  }


def _tarbomb(path):
  return _write(path, {f"f{i}": b"x" * 10 for i in range(10)})


def _with_headers(name, headers, content=b""):
  """Returns the bytes of a tar archive with one member and PAX headers."""
  info = tarfile.TarInfo(name)
  info.size, info.pax_headers = len(content), headers
  block = -len(content) % 512
  header = info.tobuf(tarfile.PAX_FORMAT)
  return header + content + b"\0" * block


def _pax(path, *members):
  path.write_bytes(b"".join(_with_headers(*m) for m in members) + b"\0" * 1024)
  return path


def _sparse(size, spread):
  return {
    "GNU.sparse.size": str(size),
    "GNU.sparse.map": f"0,0,{spread},0",
    "GNU.sparse.numblocks": "2",
  }


def _long_name(path):
  """An archive whose header claims a name of a gibibyte, and brings zeros."""
  info = tarfile.TarInfo("././@LongLink")
  info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**30
  path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 9999))
  return path


BAD = {
  "sparse": lambda p: _pax(p, ("a", _sparse(9, 3), b"1")),
  "negative sizes": lambda p: _pax(
    p, ("a", _sparse(-(10**12), 3)), ("b", _sparse(3 * 2**20, 3 * 2**20))
  ),
  "a map of no numbers": lambda p: _pax(p, ("a", {"GNU.sparse.map": "a,b"})),
  "a NUL in a name": lambda p: _pax(p, ("a", {"path": "a\0b"})),
  "a name too deep": lambda p: _pax(p, ("a", {"path": "a/" * 2000 + "a"})),
  "a name too long": lambda p: _pax(p, ("a", {"path": "a" * 256})),
  "a name of a gibibyte": _long_name,
  "a long header": lambda p: _pax(p, ("a", {"comment": "a" * 2**17})),
  "a file as a folder": lambda p: _write(p, {"a": b"1", "a/b": b"1"}),
  "a folder as a file": lambda p: (
    _write(p, {"a": None, "a/b": b"", "f": b""})
    and _pax(p, ("a/b", {}), ("a", {}, b"1"))
  ),
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
    transfer.unpack(
      path, tmp_path / "in" / "out", "[af]*", max_bytes=100, max_members=20
    )
  assert str(path) in str(error.value)
  assert "\n" not in str(error.value)
  assert _tree(tmp_path) == {"x": path.read_bytes()}
  assert list((tmp_path / "in").iterdir()) == []


def test_headers_do_not_fill_memory(tmp_path):
  zeros = b"\0" * 2**25
  info = tarfile.TarInfo("././@LongLink")
  info.type, info.size = tarfile.GNUTYPE_LONGNAME, len(zeros)
  path = tmp_path / "x"
  path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + zeros))
  tracemalloc.start()
  with pytest.raises(errors.InputError, match="too long"):
    transfer.unpack(path, tmp_path / "out")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 2**23


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_damage_inside_is_an_error_of_one_line(tmp_path, mode):
  content = np.random.default_rng(0).bytes(5000)
  whole = bytearray(_write(tmp_path / "x", {"a": content}, mode).read_bytes())
  whole[len(whole) // 2] ^= 255
  (tmp_path / "x").write_bytes(whole)
  with pytest.raises(errors.InputError, match="cannot be read"):
    transfer.unpack(tmp_path / "x", tmp_path / "out")


def test_archives_cut_anywhere(tmp_path):
  whole = _write(tmp_path / "x", {"a": bytes(range(256)) * 9}).read_bytes()
  cut = tmp_path / "cut"
  for size in range(0, len(whole), 7):
    cut.write_bytes(whole[:size])
    with pytest.raises(errors.InputError):
      transfer.unpack(cut, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_a_changed_byte_is_found(tmp_path):
  whole = bytearray(_write(tmp_path / "x", {"a": b"abc" * 999}).read_bytes())
  whole[-6] ^= 1  # In the checksum at the end.
  (tmp_path / "x").write_bytes(whole)
  with pytest.raises(errors.InputError, match="cannot be read"):
    transfer.unpack(tmp_path / "x", tmp_path / "out")


def test_modes_are_not_taken_over(tmp_path):
  info = tarfile.TarInfo("a")
  info.mode = 0o4777
  transfer.unpack(_write(tmp_path / "x", {"a": info}), tmp_path / "out")
  assert (tmp_path / "out" / "a").stat().st_mode & 0o7111 == 0
