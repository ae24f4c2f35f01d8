"""The device that a model runs on."""

import re

import tensorflow as tf

from delf.python import errors


def resolve(device=None):
  """Returns TensorFlow's name of a device.

  Args:
    device: Words such as "cpu", "GPU", "gpu:1" or "/GPU:0", or None for the
      first GPU where there is one, else the CPU.

  Returns:
    str such as "/CPU:0".

  Raises:
    InputError: If there is no such device; it lists those that there are.
  """
  found = [
    re.sub(r".*device:", "/", d.name) for d in tf.config.list_logical_devices()
  ]
  if device is None:
    gpus = [name for name in found if name.startswith("/GPU")]
    return gpus[0] if gpus else "/CPU:0"
  match = re.fullmatch(r"/?(?:device:)?(\w+?)(?::(\d+))?", str(device).strip())
  name = f"/{match[1].upper()}:{match[2] or 0}" if match else None
  if name not in found:
    known = ", ".join(name.lstrip("/") for name in found)
    raise errors.InputError(f"a device, one of {known}", repr(device))
  return name


def describe(name):
  """Returns words for a device, such as "CPU" or "GPU:0 (NVIDIA ...)"."""
  kind, _, index = name.lstrip("/").partition(":")
  physical = tf.config.list_physical_devices(kind)
  if kind == "CPU" or int(index) >= len(physical):
    return kind
  details = tf.config.experimental.get_device_details(physical[int(index)])
  model = details.get("device_name")
  return f"{kind}:{index} ({model})" if model else f"{kind}:{index}"
