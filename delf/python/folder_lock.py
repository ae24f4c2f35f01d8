"""One run at a time in a folder; a run that was killed does not count."""

import contextlib
import os

from delf.python import errors


@contextlib.contextmanager
def alone(folder, wait=False):
  """Keeps other runs out of a folder that ask for it in this way.

  The system ends it with the process, whatever ends that. Where it knows no
  such locks, nothing is kept out.

  Args:
    folder: Local path of a folder that is there.
    wait: Whether to wait for another run, rather than to refuse.

  Yields:
    None.

  Raises:
    InputError: If another run is at it, and is not waited for.
  """
  if os.name != "posix":
    yield
    return
  handle = os.open(folder, os.O_RDONLY)
  try:
    _lock(handle, wait, folder)
    yield
  finally:
    os.close(handle)


def _lock(handle, wait, folder):
  import fcntl

  try:
    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except BlockingIOError:
    raise errors.InputError(
      "a folder that no other run is changing",
      "one that is being changed",
      folder,
    ) from None
  except OSError:
    return  # A file system without locks.
