"""Downloads a data set file by file; what is done is not done again."""

import contextlib
import dataclasses
import functools
import multiprocessing.pool
import os
import pathlib
import shutil

from absl import logging

from delf.python import errors
from delf.python.datasets import downloads
from delf.python.pipelines import (
  dataset_source,
  download_record,
  extract_report,
  unpacking,
)

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
  failed: tuple[extract_report.Failure, ...] = ()
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
  source = dataset_source.Source(work, options.mirror)
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
      archive = file.kind == downloads.ARCHIVE
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
  source = dataset_source.Source(work, options.mirror)
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
  return not options.force and download_record.is_done(
    work, file, out, options.only
  )


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
    return file, None, extract_report.Failure(file.name, str(error))


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
    images = unpacking.install(path, file, out, source.work, options.only)
  except errors.InputError as error:
    if is_ours:  # It would fail again.
      path.unlink()
    # The file may be gone, so its name says what it is about.
    raise errors.InputError(error.expected, error.received) from None
  only = options.only.digest if options.only else None
  size = path.stat().st_size
  record = download_record.Record(file.name, size, digest, images, only)
  download_record.write(source.work, record)
  if is_ours:
    path.unlink()
  return record


def _check_md5(path, file, source, ignore):
  """Returns the MD5 of a file, after comparing it with the published one."""
  digest = dataset_source.file_md5(path)
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
