"""Where the files of a data set come from: published, mirror or folder."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing.pool
import os
import pathlib
import shutil

from absl import logging

from delf.base import errors, files
from delf.downloads import archives, published, transfer
from delf.extraction import engine

# An MD5 file has one line.
_MAX_MD5_BYTES = 2**16

_BEGUN = "begun"
_TO_FETCH = "to fetch"


class Source:
  """Brings files of data sets to this machine.

  Attributes:
    work: pathlib.Path of the folder that they are brought to.
  """

  def __init__(self, work, mirror=None):
    """Creates it.

    Args:
      work: Local folder, made when there is something to bring.
      mirror: Address that names of files are appended to, or local folder, in
        place of the published addresses; None for these.

    Raises:
      InputError: If the mirror is neither an address nor a folder.
    """
    self.work = pathlib.Path(work)
    self._folder = self._base = None
    if mirror is None:
      return
    if mirror.startswith(("http://", "https://")):
      self._base = mirror.rstrip("/")
    elif os.path.isdir(mirror):
      self._folder = mirror
    else:
      raise errors.InputError(
        "an address (http://, https://) or a folder", repr(mirror)
      )

  def bring(self, file, unexpected=False):
    """Brings a file.

    Args:
      file: downloads.RemoteFile.
      unexpected: Whether a file that was set aside is taken.

    Returns:
      pathlib.Path of it: in `work`, or in the folder that is the mirror.

    Raises:
      InputError: If it cannot be had.
    """
    if self._folder is not None:
      return self._in_folder(file.name)
    self.work.mkdir(parents=True, exist_ok=True)
    path = self.path(file.name)
    if unexpected and _aside(path).exists():
      os.replace(_aside(path), path)
    # There whole if a run was ended while it was unpacked.
    if not path.exists():
      self._fetch(self._addresses(file.name, file.urls), path)
    return path

  def expect(self, file):
    """Returns what `bring` would do.

    Args:
      file: downloads.RemoteFile.

    Returns:
      "begun" or "to fetch", and the bytes that are to be fetched, or None if
      nobody says. The server is asked where nothing is published.
    """
    if self._folder is not None:
      return _TO_FETCH, self._in_folder(file.name).stat().st_size
    path = self.path(file.name)
    if path.exists():
      return _BEGUN, 0
    part = path.with_name(f"{path.name}.part")
    done = part.stat().st_size if part.exists() else 0
    size = file.size
    for url in self._addresses(file.name, file.urls):
      size = size or transfer.size(url)
    left = max(0, size - done) if size else None
    return (_BEGUN if done else _TO_FETCH), left

  def published_md5(self, file):
    """Returns the MD5 that is published for a file, in lower case.

    Args:
      file: downloads.RemoteFile that has one.

    Raises:
      InputError: If it cannot be had, or is none.
    """
    if self._folder is not None:
      digest = _read_md5(self._in_folder(file.md5))
    else:
      path = self.path(file.md5)
      urls = self._addresses(file.md5, (file.md5_url,))
      self._fetch(urls, path, max_bytes=_MAX_MD5_BYTES)
      digest = _read_md5(path)
      path.unlink()
    if len(digest) != 32 or set(digest) - set("0123456789abcdef"):
      raise errors.InputError(
        "an MD5 of 32 digits", repr(digest[:40]), file.md5
      )
    return digest

  def set_aside(self, path):
    """Renames a file that is not what it should be; returns where it is.

    One in a folder that is a mirror stays what it is.
    """
    if self.work not in path.parents:
      return path
    os.replace(path, _aside(path))
    return _aside(path)

  def path(self, name):
    """Returns where a file is while it is on its way."""
    return self.work / name.replace("/", "_")

  def _addresses(self, name, urls):
    return urls if self._base is None else (f"{self._base}/{name}",)

  def _fetch(self, urls, path, **bounds):
    """Fetches from the first address that has the file."""
    for number, url in enumerate(urls, start=1):
      try:
        transfer.fetch(url, path, **bounds)
        return
      except errors.InputError as error:
        is_gone = str(error.received).startswith("HTTP status 4")
        if not is_gone or number == len(urls):
          raise
        logging.warning("%s; trying another address", error)

  def _in_folder(self, name):
    """Returns a file of the folder, by its path in it or by its base name."""
    whole = pathlib.Path(self._folder, name)
    for path in (whole, pathlib.Path(self._folder, whole.name)):
      if path.is_file():
        return path
    raise errors.InputError("the file in the folder", "none", whole)


def file_md5(path):
  """Returns the MD5 of a file, hexadecimal."""
  digest = hashlib.md5(usedforsecurity=False)  # What publishers give.
  with open(path, "rb") as file:
    while chunk := file.read(2**20):
      digest.update(chunk)
  return digest.hexdigest()


def _read_md5(path):
  """Returns the first word of a small file, in lower case."""
  with open(path, "rb") as file:
    words = file.read(_MAX_MD5_BYTES).decode("ascii", "replace").split()
  return words[0].lower() if words else ""


def _aside(path):
  return path.with_name(f"{path.name}.unexpected")


@dataclasses.dataclass(frozen=True)
class Record:
  """What one file was.

  Attributes:
    name: Its downloads.RemoteFile.name.
    size: In bytes.
    md5: Hexadecimal.
    images: Number of images that were unpacked; 0 if it is no archive.
    only: Digest of the ids whose images were kept, or None for all.
  """

  name: str
  size: int
  md5: str
  images: int = 0
  only: str | None = None


def write(work, record):
  """Writes the record of a file that is done, in the folder `work`."""
  text = json.dumps(dataclasses.asdict(record), indent=2) + "\n"
  files.write_bytes(_path(work, record.name), text.encode())


def is_done(work, file, out, only=None):
  """Returns whether a file of a data set is there, as far as is wanted.

  Args:
    work: Folder of the records.
    file: downloads.RemoteFile.
    out: Folder of the data set.
    only: unpacking.ImageIds of the images to keep, or None for all.
  """
  record = _read(work, file.name)
  if record is None:
    return False
  target = pathlib.Path(out, file.target)
  if file.kind != published.ARCHIVE:
    return target.is_file() and target.stat().st_size == record.size
  enough = record.only is None or (only and record.only == only.digest)
  return bool(enough) and target.is_dir()


def _read(work, name):
  """Returns the Record of a file, or None."""
  path = _path(work, name)
  if not path.exists():
    return None
  try:
    return Record(**json.loads(files.read_bytes(path)))
  except (ValueError, TypeError, RecursionError):
    return None  # Done again.


def _path(work, name):
  return pathlib.Path(work, f"{name.replace('/', '_')}.done.json")


# Folder below the output folder for files that are on their way, and records.
WORK = ".downloads"


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
  """How to download.

  Attributes:
    mirror: Address that the names of files are appended to, or a local folder
      that has them, in place of the published addresses; None for these.
    ignore_checksum: Whether a file with another MD5 than published is used.
    force: Whether what is done is done again.
    only: unpacking.ImageIds of the images to keep, or None for all.
    at_once: How many files are on their way at a time.
  """

  mirror: str | None = None
  ignore_checksum: bool = False
  force: bool = False
  only: object = None
  at_once: int = 1


@dataclasses.dataclass(frozen=True)
class DownloadReport:
  """What became of each file, by its name.

  Attributes:
    done: Names of files that were downloaded.
    skipped: Names of files that were there.
    failed: extract_report.Failure of each that could not be had.
    bytes: Size of those that were downloaded.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[engine.Failure, ...] = ()
  bytes: int = 0

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    return 1 if self.failed else 0


def download(files, out, say, **options):
  """Downloads files of a data set, and unpacks archives.

  Each file is whole or not there. A run that was ended at any moment can be
  repeated: it goes on within the file that it was at.

  Args:
    files: list of downloads.RemoteFile.
    out: Local folder, made if need be.
    say: Function of a line, called for each file.
    **options: Fields of DownloadOptions.

  Returns:
    DownloadReport, in the order in which they ended. A file that fails is in
    it; the others are done.

  Raises:
    InputError: If the mirror is neither an address nor a folder.
    OSError: If the disk is full, or cannot be written.
  """
  options, work = DownloadOptions(**options), pathlib.Path(out, WORK)
  source = Source(work, options.mirror)
  done, skipped, failed, size = [], [], [], 0
  get = functools.partial(_try_once, out=out, source=source, options=options)
  ended = _in_turn_or_at_once(get, files, options.at_once)
  for number, (file, record, failure) in enumerate(ended, start=1):
    at = f"[{number}/{len(files)}] {file.name}"
    if failure is not None:
      failed.append(failure)
      say(f"{at}: failed")
    elif record is None:
      skipped.append(file.name)
      say(f"{at}: already there")
    else:
      done.append(file.name)
      size += record.size
      archive = file.kind == published.ARCHIVE
      kept = f", {record.images} images" if archive else ""
      say(f"{at}: {record.size:,} bytes{kept}")
  with contextlib.suppress(OSError):  # Empty if there was nothing to do.
    work.rmdir()
  return DownloadReport(tuple(done), tuple(skipped), tuple(failed), size)


def plan(files, out, **options):
  """Says what `download` would do.

  Args:
    files: As in `download`.
    out: As there.
    **options: As there.

  Yields:
    (downloads.RemoteFile, "there", "to fetch", or "begun"; bytes to fetch, or
    None if neither the publisher nor the server says).

  Raises:
    InputError: If the mirror is neither an address nor a folder.
  """
  options, work = DownloadOptions(**options), pathlib.Path(out, WORK)
  source = Source(work, options.mirror)
  for file in files:
    if _is_done(file, out, options):
      yield file, "there", 0
    else:
      yield (file, *source.expect(file))


def free_bytes(out):
  """Returns the free bytes of the disk that a folder is, or will be, on."""
  path = pathlib.Path(os.path.abspath(out))
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def _is_done(file, out, options):
  work = pathlib.Path(out, WORK)
  return not options.force and is_done(work, file, out, options.only)


def _in_turn_or_at_once(get, files, at_once):
  """Yields what a function returns of each file, in the order they end in."""
  if at_once == 1:
    yield from map(get, files)
    return
  # Its threads are no hindrance to the end of a program that is interrupted.
  with multiprocessing.pool.ThreadPool(at_once) as pool:
    yield from pool.imap_unordered(get, files)


def _try_once(file, out, source, options):
  """Does `_get_once`; returns (file, its result, None or a Failure)."""
  try:
    return file, _get_once(file, out, source, options), None
  except errors.InputError as error:
    return file, None, engine.Failure(file.name, str(error))


def _get_once(file, out, source, options):
  """Does `_get`, or returns None if it is done, by whichever run."""
  if _is_done(file, out, options):
    return None
  lock = source.path(f"{file.name}.lock")
  with _alone(lock):
    # Another run may have done it in the meantime.
    if _is_done(file, out, options):
      return None
    record = _get(file, out, source, options)
    lock.unlink()
    return record


@contextlib.contextmanager
def _alone(lock):
  """Waits until no other run is at the same file; a killed one does not count.

  Args:
    lock: pathlib.Path of a file to lock, which is made.
  """
  lock.parent.mkdir(parents=True, exist_ok=True)
  with open(lock, "ab") as file:
    if os.name == "posix":
      import fcntl

      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _get(file, out, source, options):
  """Puts a file in its place; returns its download_record.Record."""
  path = source.bring(file, options.ignore_checksum)
  is_ours = source.work in path.parents
  digest = _check_md5(path, file, source, options.ignore_checksum)
  try:
    images = archives.install(path, file, out, source.work, options.only)
  except errors.InputError as error:
    if is_ours:  # It would fail again.
      path.unlink()
    # The file may be gone, so its name says what it is about.
    raise errors.InputError(error.expected, error.received) from None
  only = options.only.digest if options.only else None
  size = path.stat().st_size
  record = Record(file.name, size, digest, images, only)
  write(source.work, record)
  if is_ours:
    path.unlink()
  return record


def _check_md5(path, file, source, ignore):
  """Returns the MD5 of a file, after comparing it with the published one."""
  digest = file_md5(path)
  expected = source.published_md5(file) if file.md5 else digest
  if digest == expected:
    return digest
  if ignore:
    logging.warning("%s: MD5 %s, published is %s", file.name, digest, expected)
    return digest
  kept = source.set_aside(path)
  raise errors.InputError(
    f"MD5 {expected}, as published",
    f"{digest} (kept as {kept}; --ignore-checksum takes it as it is)",
  )
