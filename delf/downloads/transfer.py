"""Fetch a file over HTTP, resuming an interrupted transfer.

`requests` would be as long here and one dependency more, and `pooch` begins
anew after every broken connection.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import time
import urllib.error
import urllib.request

from absl import logging

import delf
from delf.base import errors, files, progress

_CHUNK = 2**18
_TIMEOUT = 30  # Seconds without a byte.
_ATTEMPTS = 5  # In a row without a single byte.
_WAIT = 1.0  # Seconds before the second attempt, doubled for each next one.
_MAX_BYTES = 2**33  # A bound against servers that never end.

# Statuses that may pass: timeout, too many requests, and all of 5xx.
_PASSING = {408, 425, 429}


class _Interrupted(Exception):  # noqa: N818 (never leaves this module)
  """The transfer ended early; another attempt may resume it."""


class _PartialFile:
  """The file `<target>.part`, and beside it a note of its version."""

  def __init__(self, target, url, max_bytes):
    self.url, self.max_bytes, self._target = url, max_bytes, target
    self.path = target.with_name(f"{target.name}.part")
    self._note = target.with_name(f"{target.name}.part.json")

  def size(self):
    return self.path.stat().st_size if self.path.exists() else 0

  def version(self):
    """Return the server's name of the version that was begun, or ''."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
      note = json.loads(self._note.read_text(encoding="utf-8"))
      if note.get("url") == self.url:
        return note.get("version", "")
    return ""

  def begin(self, version):
    """Empty it, to be a part of this version."""
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self.path.write_bytes(b"")
    note = json.dumps({"url": self.url, "version": version})
    files.write_bytes(self._note, note.encode())

  def append(self, response, done, total):
    """Append the body of a response, and check that all of it came."""
    name = self._target.name
    with (
      open(self.path, "ab") as sink,
      progress.count_bytes(name, total, done) as bar,
    ):
      while chunk := _read(response):
        done += len(chunk)
        if max(done, total or 0) > self.max_bytes:
          expected = f"a file of at most {self.max_bytes} bytes"
          raise errors.InputError(expected, "a larger one", self.url)
        sink.write(chunk)
        bar.update(len(chunk))
    if total is not None and done != total:
      raise _Interrupted(f"{done} of {total} bytes came")

  def finish(self):
    os.replace(self.path, self._target)
    self._note.unlink(missing_ok=True)


def fetch(
  url: str,
  path: files.Path,
  *,
  attempts: int = _ATTEMPTS,
  wait: float = _WAIT,
  timeout: float = _TIMEOUT,
  max_bytes: int = _MAX_BYTES,
) -> None:
  """Download a file whole, or leave `<path>.part` for a later call.

  Args:
    attempts: Attempts in a row that may bring nothing.
    wait: Seconds before the second attempt, doubled for each next one.
    timeout: Seconds without a byte after which an attempt has failed.
    max_bytes: Bytes above which a file is refused.
  """
  if not re.match(r"https?://[^/]", url):
    raise errors.InputError("an address, https://...", repr(url))
  part = _PartialFile(pathlib.Path(path), url, max_bytes)
  failures = 0
  while True:
    size_before = part.size()
    try:
      _fetch_rest(url, part, timeout)
      break
    except _Interrupted as error:
      failures = 1 if part.size() > size_before else failures + 1
      if failures >= attempts:
        raise errors.InputError(
          "the whole of a file",
          f"{part.size()} bytes of it in the end ({error}); the same command "
          "goes on from there",
          url,
        ) from None
      seconds = wait * 2 ** (failures - 1)
      logging.warning("%s; trying again in %g s", error, seconds)
      time.sleep(seconds)
  part.finish()


def size(url: str, timeout: float = _TIMEOUT) -> int | None:
  """Return the size of a file in bytes, or None if the server does not say."""
  with (
    contextlib.suppress(OSError, ValueError, _Interrupted),
    _request(url, 0, "", timeout, method="HEAD") as response,
  ):
    return _total(response)
  return None


def _fetch_rest(url, part, timeout):
  """Fetch the missing rest of a part; _Interrupted if it ended early."""
  offset, version = part.size(), part.version()
  # Without the name of its version, the part may be of another file.
  if not version:
    offset = 0
  try:
    with _request(url, offset, version, timeout) as response:
      total = _total(response)
      if response.status != 206 or _range_start(response) != offset:
        # The server sends the whole: it knows no ranges, or has a new version.
        offset = 0
      if offset == 0:
        part.begin(_version(response))
        if response.status == 206:
          raise _Interrupted("the server sent a range that was not asked for")
      part.append(response, offset, total)
  except urllib.error.HTTPError as error:
    if error.code == 416 and offset:
      # The range begins at or after the end of what the server has.
      if error.headers.get("Content-Range", "") == f"bytes */{offset}":
        return
      part.begin("")
      raise _Interrupted("what was there was too long") from None
    if error.code in _PASSING or error.code >= 500:
      raise _Interrupted(f"HTTP status {error.code}") from None
    raise errors.InputError(
      "a file", f"HTTP status {error.code} ({error.reason})", error.url
    ) from None


def _request(url, offset, version, timeout, method="GET"):
  headers = {
    "User-Agent": f"delf/{delf.__version__}",
    # The bytes as they lie there: ranges and lengths are counted in those.
    "Accept-Encoding": "identity",
  }
  if offset:
    headers |= {"Range": f"bytes={offset}-", "If-Range": version}
  request = urllib.request.Request(url, headers=headers, method=method)
  with _network_errors():
    return urllib.request.urlopen(request, timeout=timeout)


def _read(response):
  with _network_errors():
    return response.read(_CHUNK)


@contextlib.contextmanager
def _network_errors():
  """Turn an error of the connection into _Interrupted."""
  try:
    yield
  except urllib.error.HTTPError:
    raise
  except (OSError, http.client.HTTPException) as error:
    raise _Interrupted(f"{type(error).__name__}: {error}") from None


def _version(response):
  """Return a name of the file's version for `If-Range`, or ''."""
  tag = response.headers.get("ETag", "")
  if tag and not tag.startswith("W/"):  # Weak tags may not be used for it.
    return tag
  return response.headers.get("Last-Modified", "")


def _range_start(response):
  text = response.headers.get("Content-Range", "")
  match = re.match(r"bytes (\d{1,18})-", text)
  return int(match.group(1)) if match else None


def _total(response):
  """Return the size of the whole file, or None if the server does not say."""
  match = re.search(r"/(\d{1,18})$", response.headers.get("Content-Range", ""))
  if match:
    return int(match.group(1))
  length = response.headers.get("Content-Length", "")
  return int(length) if re.fullmatch(r"\d{1,18}", length) else None
