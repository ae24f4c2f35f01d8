"""Where the files of a data set come from: published, mirror or folder."""

import hashlib
import os
import pathlib

from absl import logging

from delf.python import errors
from delf.python.inference import transfer

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
