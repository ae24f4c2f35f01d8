"""A local HTTP server with the faults of real ones, for tests of downloads."""

import contextlib
import dataclasses
import http.server
import re
import threading
import time
from collections.abc import Callable


@dataclasses.dataclass
class FaultySite:
  """What the server holds, how it behaves, and what it was asked."""

  content: bytes = b""
  # Content by path, as "/a/b.tar"; others are missing. None: it is `content`.
  files: dict | None = None
  ranges: bool = True
  tag: str | None = '"v1"'
  # Bytes of the body that each response brings before the connection is cut;
  # None brings all. One is used up per response; then all come whole.
  cuts: list = dataclasses.field(default_factory=list)
  # Bytes of the body of a path after which nothing comes until `released`.
  holds: dict = dataclasses.field(default_factory=dict)
  released: threading.Event = dataclasses.field(default_factory=threading.Event)
  # The `Content-Length` to send in place of the right one; "" sends none.
  length: str | None = None
  # Seconds before each response.
  pause: float = 0.0
  # Called with the path of each request, before it is answered.
  before: Callable = lambda path: None
  # Statuses of the next responses.
  statuses: list = dataclasses.field(default_factory=list)
  # The `Range` of each request, or None, and the path of each.
  requests: list = dataclasses.field(default_factory=list)
  paths: list = dataclasses.field(default_factory=list)
  url: str = ""

  @property
  def root(self):
    """Address that the paths begin at."""
    return self.url.rpartition("/")[0]


@contextlib.contextmanager
def serve():
  """Runs a server on a free port of this machine.

  Yields:
    FaultySite, to be filled; its `url` is that of a file.
  """
  site = FaultySite()

  class Handler(_Handler):
    pass

  Handler.site = site
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  site.url = f"http://127.0.0.1:{server.server_port}/file.tar.gz"
  thread = threading.Thread(
    target=server.serve_forever, kwargs={"poll_interval": 0.01}
  )
  thread.start()
  try:
    yield site
  finally:
    site.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers GET as the site says."""

  site = None

  def log_message(self, *args):
    """Keeps the requests off standard error."""

  def do_HEAD(self):  # noqa: D102
    self.do_GET()

  def do_GET(self):  # noqa: D102
    site = self.site
    asked = self.headers.get("Range")
    site.requests.append(asked)
    site.paths.append(self.path)
    time.sleep(site.pause)
    site.before(self.path)
    if site.files is not None and self.path not in site.files:
      self.send_error(404)
      return
    content = self._content()
    if site.statuses:
      self.send_error(site.statuses.pop(0))
      return
    same = self.headers.get("If-Range") in (None, site.tag)
    start = 0
    if asked and site.ranges and same:
      start = int(re.match(r"bytes=(\d+)-$", asked).group(1))
    if start and start >= len(content):
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(content)}")
      self.send_header("Content-Length", "0")
      self.end_headers()
      return
    self._send(start)

  def _content(self):
    site = self.site
    return site.content if site.files is None else site.files[self.path]

  def _send(self, start):
    site, content = self.site, self._content()
    size = len(content)
    self.send_response(206 if start else 200)
    if start:
      self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    length = str(size - start) if site.length is None else site.length
    if length:
      self.send_header("Content-Length", length)
    if site.tag:
      self.send_header("ETag", site.tag)
    self.end_headers()
    if self.command == "HEAD":
      return
    end = site.cuts.pop(0) if site.cuts else None
    body = content[start:]
    hold = site.holds.get(self.path)
    if hold is not None and not site.released.is_set():
      self.wfile.write(body[:hold])
      self.wfile.flush()
      site.released.wait()
      return
    self.wfile.write(body if end is None else body[:end])
    self.close_connection = True
