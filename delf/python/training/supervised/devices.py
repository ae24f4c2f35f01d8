"""The devices of a run, by names, and how they share its work."""

import tensorflow as tf

from delf.python import errors


def strategy(execution):
  """Returns how the devices of a run share its work.

  Args:
    execution: settings.Execution.

  Returns:
    tf.distribute.Strategy: MirroredStrategy where there are several devices.

  Raises:
    InputError: If there is no such device.
  """
  logical = tf.config.list_logical_devices()
  known = [device.name.removeprefix("/device:") for device in logical]
  names = [name for name in known if name.startswith("GPU:")]
  if execution.devices is not None:
    names = [_short(name) for name in execution.devices]
  for name in names:
    if name not in known or names.count(name) > 1:
      expected = f"devices of {', '.join(known)}, each once"
      raise errors.InputError(expected, repr(name))
  paths = [f"/device:{name}" for name in names]
  if len(paths) > 1:
    return tf.distribute.MirroredStrategy(paths)
  if paths:
    return tf.distribute.OneDeviceStrategy(paths[0])
  return tf.distribute.get_strategy()


def _short(name):
  """Returns "GPU:0" for "gpu:0", "/GPU:0" and "/device:GPU:0"."""
  return name.strip().upper().removeprefix("/").removeprefix("DEVICE:")
