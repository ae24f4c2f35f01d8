"""The device that a model runs on."""

import os
import re

import tensorflow as tf

from delf.python import errors

# TensorFlow's variable for the cores of an operation.
_THREADS = "TF_NUM_INTRAOP_THREADS"


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


def use_one_core_each(device=None):
  """Has each operation of TensorFlow run on one core, in the whole process.

  Many images side by side, one per core, then do not wait for each other inside
  of operations: two cores do 1.1 times as much (benchmarks/regions.py). What is
  there already stays: a GPU, TensorFlow that has begun, a number that was set.

  Args:
    device: As of `resolve`.

  Returns:
    Whether it is so now.
  """
  is_cpu = "cpu" in str(device).lower()
  if not is_cpu and (device or tf.config.list_physical_devices("GPU")):
    return False
  get = tf.config.threading.get_intra_op_parallelism_threads
  if get() or os.environ.get(_THREADS):
    return get() == 1
  try:
    tf.config.threading.set_intra_op_parallelism_threads(1)
  except RuntimeError:  # TensorFlow has begun.
    return False
  return True
