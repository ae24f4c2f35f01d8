"""Networks in TFLite files, run by LiteRT."""

import os
import threading

from delf.python import errors, extras, network_io
from delf.python.inference import single_file


def load(path, device=None):
  """Loads a network that `delf export` wrote.

  Args:
    path: pathlib.Path of the file.
    device: "cpu" or None.

  Returns:
    single_file.SingleFileModel. Several threads take turns.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or damaged, or LiteRT is not
      installed, or the device is another one.
  """
  settings = network_io.read_settings(path)
  if device is not None and str(device).lower().strip("/") not in (
    "cpu",
    "cpu:0",
  ):
    raise errors.InputError("a device, one of CPU:0", repr(device))
  runtime = extras.load("ai_edge_litert.interpreter", "tflite")
  runners = _open(runtime, path)
  lock = threading.Lock()
  if {n for _, outputs in runners for n in outputs} != set(settings.outputs):
    raise errors.InputError(
      f"a network with the outputs {', '.join(settings.outputs)}",
      ", ".join(sorted({n for _, outputs in runners for n in outputs})),
      path,
    )

  def run(images, names):
    with lock:
      for runner, outputs in runners:
        if set(names) <= set(outputs):
          return runner(**{network_io.IMAGES: images})
    raise ValueError(f"no function for {names}")

  return single_file.SingleFileModel(path, settings, run, "CPU (LiteRT)")


def _open(runtime, path):
  """Returns (function, names of its outputs), least work first."""
  try:
    interpreter = runtime.Interpreter(
      model_path=os.fspath(path), num_threads=single_file.number_of_threads()
    )
    signatures = interpreter.get_signature_list()
    return sorted(
      (
        (interpreter.get_signature_runner(name), tuple(signature["outputs"]))
        for name, signature in signatures.items()
      ),
      key=lambda each: len(each[1]),
    )
  except (ValueError, RuntimeError) as error:
    reason = " ".join(str(error).split())
    raise errors.InputError(
      "a whole TFLite file", f"one that cannot be read ({reason})", path
    ) from None
