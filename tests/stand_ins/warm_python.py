"""Python with TensorFlow loaded, for tests that run many commands.

To import it takes a command four seconds of a core, more than most of them take
for the rest. Here one process imports it and forks for each command, which then
runs as `python3` would run it: a process with its own folder, environment,
input and output. Nothing of this library is loaded before.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import types

_LENGTH = 8  # Bytes that say how long a request is.


@contextlib.contextmanager
def serve():
  """Gives the words of a command that does as `python3`, while it lasts."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "python")
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)  # Each command has its own.
    server = subprocess.Popen(
      [sys.executable, __file__, path],
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
    )
    try:
      server.stdout.readline()
      yield [sys.executable, "-IS", __file__, path]
    finally:
      server.terminate()
      server.communicate()


def _serve(path):
  """Forks for each request until its starter has ended.

  Returns:
    The request, in a process that is to run it; else None.
  """
  started_by = os.getppid()
  with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    import tensorflow  # noqa: F401

    gc.freeze()  # Else each command's first collection copies all of it.
    while os.getppid() == started_by:
      if not select.select([listener], [], [], 1)[0]:
        continue
      connection, _ = listener.accept()
      if not os.fork():
        listener.close()
        return _attend(connection)
      connection.close()
      with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
  return None


def _attend(connection):
  """Forks once more, to tell the client how the command ends."""
  data, files, _, _ = socket.recv_fds(connection, _LENGTH, 3)
  with connection.makefile("rb") as stream:
    request = json.loads(stream.read(int.from_bytes(data, "big")))
  command = os.fork()
  if command:
    _, status = os.waitpid(command, 0)
    code = os.waitstatus_to_exitcode(status)
    connection.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)
  connection.close()
  for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
  sys.stdin = os.fdopen(0)
  sys.stdout = os.fdopen(1, "w")
  sys.stderr = os.fdopen(2, "w", 1)
  return request


def _run(words, folder, environment):
  """Does as `python3 WORDS...` there."""
  os.chdir(folder)
  os.environ.clear()
  os.environ.update(environment)
  paths = environment.get("PYTHONPATH", "")
  sys.path[:1] = paths.split(os.pathsep) if paths else []
  if words[0] == "-c":
    sys.path.insert(0, "")
    sys.argv = ["-c", *words[2:]]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(words[1], "<string>", "exec"), main.__dict__)
  elif words[0] == "-m":
    sys.path.insert(0, os.getcwd())
    sys.argv = words[1:]
    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
  else:
    sys.path.insert(0, os.path.dirname(os.path.realpath(words[0])))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _ask(path, words):
  """Has the server run a command; returns its exit status."""
  request = [words, os.getcwd(), dict(os.environ)]
  data = json.dumps(request).encode()
  with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    length = len(data).to_bytes(_LENGTH, "big")
    socket.send_fds(connection, [length], [0, 1, 2])
    connection.sendall(data)
    with connection.makefile("rb") as stream:
      return int(stream.read() or 1)


if __name__ == "__main__":
  if len(sys.argv) > 2:
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
  if asked := _serve(sys.argv[1]):
    _run(*asked)
