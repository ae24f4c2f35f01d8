"""Networks in ONNX files, run by ONNX Runtime."""

import re

from delf.python import errors, extras, network_io
from delf.python.inference import single_file

_CPU, _GPU = "CPUExecutionProvider", "CUDAExecutionProvider"

# Of ONNX Runtime's levels: errors alone, which it raises as well.
_ERRORS = 3


def load(path, device=None):
  """Loads a network that `delf export` wrote.

  Args:
    path: pathlib.Path of the file.
    device: "cpu", or "gpu" or "gpu:N" where ONNX Runtime has CUDA, or None for
      the best there is.

  Returns:
    single_file.SingleFileModel.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is another kind of file, or damaged, or ONNX Runtime is
      not installed, or there is no such device.
  """
  settings = network_io.read_settings(path)
  runtime = extras.load("onnxruntime", "onnx")
  provider, words = _device(runtime.get_available_providers(), device)
  session = _open(runtime, path, provider)
  outputs = {output.name for output in session.get_outputs()}
  if outputs != set(settings.outputs):
    raise errors.InputError(
      f"a network with the outputs {', '.join(settings.outputs)}",
      ", ".join(sorted(outputs)),
      path,
    )
  options = runtime.RunOptions()
  # What only the descriptor needs is not computed for local features alone.
  options.only_execute_path_to_fetches = True
  options.log_severity_level = _ERRORS

  def run(images, names):
    found = session.run(names, {network_io.IMAGES: images}, options)
    return dict(zip(names, found, strict=True))

  return single_file.SingleFileModel(path, settings, run, words)


def _open(runtime, path, provider):
  options = runtime.SessionOptions()
  options.intra_op_num_threads = single_file.number_of_threads()
  options.log_severity_level = _ERRORS
  # Threads that wait while they run are a loss where processors are shared:
  # twice the time beside a training (benchmarks/export_formats.py).
  options.add_session_config_entry("session.intra_op.allow_spinning", "0")
  try:
    # By its bytes, so that it cannot name other files to be read.
    return runtime.InferenceSession(
      path.read_bytes(), options, providers=[provider]
    )
  except Exception as error:  # It raises classes of its own.
    reason = " ".join(str(error).split())
    raise errors.InputError(
      "a whole ONNX file", f"one that cannot be read ({reason})", path
    ) from None


def _device(providers, device):
  """Returns the provider for a device, as its list takes it, and words."""
  has_gpu = _GPU in providers
  match = re.fullmatch(
    r"/?(?:device:)?(cpu|gpu)(?::(\d+))?", str(device or "").strip().lower()
  )
  kind = match[1] if match else None
  if device is None:
    kind = "gpu" if has_gpu else "cpu"
  if kind is None or (kind == "gpu" and not has_gpu):
    known = "CPU:0, GPU:N" if has_gpu else "CPU:0"
    raise errors.InputError(f"a device, one of {known}", repr(device))
  if kind == "cpu":
    return _CPU, "CPU (ONNX Runtime)"
  number = int(match[2] or 0) if match else 0
  return (_GPU, {"device_id": number}), f"GPU:{number} (ONNX Runtime)"
