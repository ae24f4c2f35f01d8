"""Downloads of data sets: sources, checks, records and places of files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing.pool
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from absl import logging

from delf.base import errors, files, manifest
from delf.downloads import published, transfer
from delf.extraction import engine
from delf.formats import untrusted
from delf.records import tuples

# Folder below the output folder for unfinished files and records.
WORK = ".downloads"

# An MD5 file has one line.
_MAX_MD5_BYTES = 2**16
# Far above the largest published archive, of about 100 000 images in folders.
_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 64 * 2**30

# Ids of images of Google Landmarks v2.
_ID = re.compile(rb"\b[0-9a-f]{16}\b")

_BEGUN, _TO_FETCH, _THERE = "begun", "to fetch", "there"


@dataclasses.dataclass(frozen=True)
class ImageIds:
  """Ids of the images to keep, and their SHA-256, to compare subsets."""

  ids: frozenset[int]
  digest: str

  def __contains__(self, stem: str) -> bool:
    """Return whether to keep an image; `stem` is its name without extension."""
    return bool(_ID.fullmatch(os.fsencode(stem))) and int(stem, 16) in self.ids


def read_ids(path: files.Path) -> ImageIds:
  """Read all ids of Google Landmarks v2 in a text file, such as a CSV."""
  with open(path, "rb") as file:
    ids = {int(each, 16) for line in file for each in _ID.findall(line)}
  if not ids:
    raise errors.InputError("no image ids of 16 hexadecimal digits", path=path)
  text = ",".join(f"{each:x}" for each in sorted(ids))
  return ImageIds(frozenset(ids), hashlib.sha256(text.encode()).hexdigest())


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
  """Options of a download."""

  # Used instead of the published addresses: an address, to which the names of
  # files are appended, or a local folder with the files.
  mirror: str | None = None
  ignore_checksum: bool = False  # Whether to use a file with a different MD5.
  force: bool = False  # Whether to download finished files again.
  only: ImageIds | None = None  # Images to keep, or None for all.
  at_once: int = 1  # Number of simultaneous downloads.


@dataclasses.dataclass(frozen=True)
class DownloadReport(engine.Report):
  """Result of a download, with the names of files."""

  bytes: int = 0


def download(
  remote_files: list[published.RemoteFile],
  out: files.Path,
  say: Callable[[str], Any],
  **options: Any,
) -> DownloadReport:
  """Download files of a data set to a local folder, and unpack archives.

  Each file is whole or absent, and an interrupted run resumes within a file.
  Failed files are reported and do not stop the others. `say` is called with a
  line for each file; `options` are fields of DownloadOptions.
  """
  run = _Download(out, DownloadOptions(**options))
  done, skipped, failed, size = [], [], [], 0
  for number, (file, result) in enumerate(run.results(remote_files), 1):
    at = f"[{number}/{len(remote_files)}] {file.name}"
    if isinstance(result, engine.Failure):
      failed.append(result)
      say(f"{at}: failed")
    elif result is None:
      skipped.append(file.name)
      say(f"{at}: already there")
    else:
      done.append(file.name)
      size += result.size
      archive = file.kind == published.ARCHIVE
      kept = f", {result.images} images" if archive else ""
      say(f"{at}: {result.size:,} bytes{kept}")
  with contextlib.suppress(OSError):  # Empty if there was nothing to do.
    run.work.rmdir()
  return DownloadReport(tuple(done), tuple(skipped), tuple(failed), bytes=size)


def plan(
  remote_files: Iterable[published.RemoteFile], out: files.Path, **options: Any
) -> Iterator[tuple[published.RemoteFile, str, int | None]]:
  """Yield each file, its state, and the bytes that `download` would fetch.

  The state is "there", "to fetch" or "begun"; bytes are None if unknown.
  """
  run = _Download(out, DownloadOptions(**options))
  for file in remote_files:
    if run.is_done(file):
      yield file, _THERE, 0
    else:
      yield (file, *run.expect(file))


def free_bytes(out: files.Path) -> int:
  """Return the free bytes on the disk of an existing or future folder."""
  path = pathlib.Path(os.path.abspath(out))
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


@dataclasses.dataclass(frozen=True)
class _Record:
  name: str
  size: int
  md5: str
  images: int = 0
  only: str | None = None  # Digest of the ids of kept images.


class _Download:
  def __init__(self, out, options):
    self._out, self._options = pathlib.Path(out), options
    self.work = self._out / WORK
    self._folder = self._base = ""  # Of a mirror.
    mirror = options.mirror or ""
    if mirror.startswith(("http://", "https://")):
      self._base = mirror.rstrip("/")
    elif os.path.isdir(mirror):
      self._folder = mirror
    elif options.mirror is not None:
      problem = f"must be an address (https://) or a folder, not {mirror!r}"
      raise errors.InputError(f"a mirror {problem}")

  def results(self, remote_files):
    """Yield (file, result): a _Record, a Failure, or None if it existed."""
    if self._options.at_once == 1:
      yield from map(self._try_once, remote_files)
      return
    # Its threads do not delay the end of an interrupted program.
    with multiprocessing.pool.ThreadPool(self._options.at_once) as pool:
      yield from pool.imap_unordered(self._try_once, remote_files)

  def is_done(self, file):
    """Return whether a file exists, with all images that are requested."""
    if self._options.force:
      return False
    try:
      path = self._path(f"{file.name}.done.json")
      record = _Record(**json.loads(files.read_bytes(path)))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
      return False
    target, only = self._out / file.target, self._options.only
    if file.kind != published.ARCHIVE:
      return target.is_file() and target.stat().st_size == record.size
    enough = record.only is None or (only and record.only == only.digest)
    return bool(enough) and target.is_dir()

  def _try_once(self, file):
    try:
      return file, self._get_once(file)
    except errors.InputError as error:
      return file, engine.Failure(file.name, str(error))

  def _get_once(self, file):
    """Get a file, or return None if this or another run has finished it."""
    import filelock

    if self.is_done(file):
      return None
    lock = self._path(f"{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
      # Another run may have finished it in the meantime.
      if self.is_done(file):
        return None
      record = self._get(file)
      with contextlib.suppress(OSError):  # Windows removes it when released.
        lock.unlink()
      return record

  def _get(self, file):
    path, only, images = self._bring(file), self._options.only, 0
    target, is_ours = self._out / file.target, self.work in path.parents
    md5 = self._check_md5(path, file)
    try:
      if file.kind == published.ARCHIVE:
        images = _install_images(path, target, file, self.work, only)
      else:
        _CHECKS[file.kind](path)
        with files.atomic_path(target) as temporary:
          shutil.copyfile(path, temporary)
    except errors.InputError as error:
      if is_ours:  # It would fail again.
        path.unlink()
      # Without the path, as the file may be gone; the report has its name.
      raise errors.InputError(error.message) from None
    digest = only.digest if only else None
    record = _Record(file.name, path.stat().st_size, md5, images, digest)
    done = self._path(f"{file.name}.done.json")
    manifest.write(done, dataclasses.asdict(record))
    if is_ours:
      path.unlink()
    return record

  def _check_md5(self, path, file):
    """Return the MD5 of a file, the checksum that publishers provide."""
    md5 = functools.partial(hashlib.md5, usedforsecurity=False)
    with open(path, "rb") as opened:
      digest = hashlib.file_digest(opened, md5).hexdigest()
    published_md5 = self._published_md5(file) if file.md5 else digest
    if digest == published_md5:
      return digest
    if self._options.ignore_checksum:
      text = "%s: MD5 %s, published is %s"
      logging.warning(text, file.name, digest, published_md5)
      return digest
    kept = path
    if self.work in path.parents:  # Not in a mirror.
      kept = _aside(path)
      os.replace(path, kept)
    problem = f"MD5 {published_md5} is published, but the file has {digest}"
    advice = f"kept as {kept}; --ignore-checksum accepts it"
    raise errors.InputError(f"{problem} ({advice})")

  def _bring(self, file):
    """Return the path of a file, from a mirror or fetched to `work`."""
    if self._folder:
      return self._in_folder(file.name)
    self.work.mkdir(parents=True, exist_ok=True)
    path = self._path(file.name)
    if self._options.ignore_checksum and _aside(path).exists():
      os.replace(_aside(path), path)
    # It exists, and is whole, if an earlier run ended while unpacking it.
    if not path.exists():
      self._fetch(self._addresses(file.name, file.urls), path)
    return path

  def expect(self, file):
    """Return the state of a file and the bytes to fetch, None if unknown."""
    if self._folder:
      return _TO_FETCH, self._in_folder(file.name).stat().st_size
    path = self._path(file.name)
    if path.exists():
      return _BEGUN, 0
    part = path.with_name(f"{path.name}.part")
    done = part.stat().st_size if part.exists() else 0
    size = file.size
    for url in self._addresses(file.name, file.urls):
      size = size or transfer.size(url)
    left = max(0, size - done) if size else None
    return (_BEGUN if done else _TO_FETCH), left

  def _published_md5(self, file):
    """Return the published MD5 of a file, in lower case."""
    if self._folder:
      text = _read_start(self._in_folder(file.md5), _MAX_MD5_BYTES)
    else:
      path = self._path(file.md5)
      urls = self._addresses(file.md5, (file.md5_url,))
      self._fetch(urls, path, max_bytes=_MAX_MD5_BYTES)
      text = _read_start(path, _MAX_MD5_BYTES)
      path.unlink()
    digest = [*text.decode("ascii", "replace").lower().split(), ""][0]
    if len(digest) != 32 or set(digest) - set("0123456789abcdef"):
      raise errors.InputError(f"not an MD5: {digest[:40]!r}", path=file.md5)
    return digest

  def _path(self, name):
    return self.work / name.replace("/", "_")

  def _addresses(self, name, urls):
    return (f"{self._base}/{name}",) if self._base else urls

  def _fetch(self, urls, path, **bounds):
    for number, url in enumerate(urls, start=1):
      try:
        transfer.fetch(url, path, **bounds)
        return
      except errors.InputError as error:
        if "HTTP status 4" not in error.message or number == len(urls):
          raise
        logging.warning("%s; trying another address", error)

  def _in_folder(self, name):
    """Return a file of the mirror, by its path below it or its base name."""
    whole = pathlib.Path(self._folder, name)
    for path in (whole, pathlib.Path(self._folder, whole.name)):
      if path.is_file():
        return path
    raise errors.InputError("the mirror has no such file", path=whole)


def _aside(path):
  return path.with_name(f"{path.name}.unexpected")


def _read_start(path, number):
  with open(path, "rb") as file:
    return file.read(number)


def _install_images(path, target, file, work, only):
  """Unpack elsewhere, so that a bad archive leaves nothing; count images."""
  unpacked = work / f"{path.name}.unpacked"
  for left in work.glob(f".{unpacked.name}.*"):
    shutil.rmtree(left, ignore_errors=True)  # From a killed run.
  # Images that are named by an id have no extension.
  pattern = "*" if file.by_id else "*.jpg"
  bounds = {"max_bytes": _MAX_BYTES, "max_members": _MAX_MEMBERS}
  transfer.unpack(path, unpacked, required=pattern, **bounds)
  try:
    moves: dict[pathlib.Path, pathlib.Path] = {}
    for source in sorted(unpacked.rglob(pattern)):
      if not source.is_file() or (only is not None and source.stem not in only):
        continue
      inside = source.name if file.flatten else source.relative_to(unpacked)
      if file.by_id:
        inside = tuples.image_path(source.name, "")
      if moves.setdefault(target / inside, source) != source:
        raise errors.InputError(f"two images are named {source.name}")
    for folder in {goal.parent for goal in moves}:
      folder.mkdir(parents=True, exist_ok=True)
    for goal, source in moves.items():
      os.replace(source, goal)
    target.mkdir(parents=True, exist_ok=True)
  finally:
    shutil.rmtree(unpacked, ignore_errors=True)
  return len(moves)


def _check_pairs(path):
  """Raise InputError if pairs, of each mode if there are any, are invalid."""
  content = untrusted.read_plain_pickle(path)
  has_modes = isinstance(content, dict) and content.keys() & {"train", "val"}
  for mode in sorted(has_modes) if has_modes else [None]:
    tuples.read_pairs(path, mode)


def _check_truth(path):
  from delf.evaluation import ground_truth

  ground_truth.read_revisited(path)


def _check_text(path):
  """Raise InputError for binary data or a web page."""
  start = _read_start(path, 2**12)
  if not start.strip() or b"\0" in start or start.lstrip().startswith(b"<"):
    raise errors.InputError("a web page or binary data, not text", path=path)


_CHECKS = {
  published.GROUND_TRUTH: _check_truth,
  published.PAIRS: _check_pairs,
  published.TEXT: _check_text,
}
