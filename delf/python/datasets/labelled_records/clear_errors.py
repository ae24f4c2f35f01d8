"""What is wrong with a record, out of what TensorFlow makes of it."""

import contextlib
import re

from delf.python import errors

# The one line of an InputError in the text of a TensorFlow error.
_LINE = re.compile(
  r"^.*?InputError: (?:(?P<path>.*?): )?"
  r"expected (?P<expected>.*), received (?P<received>.*)$",
  re.MULTILINE,
)


@contextlib.contextmanager
def clear_errors():
  """Gives the InputError that was raised where a batch was made.

  Around what draws batches of a tf.data.Dataset, which raises its own errors
  with the text of ours in them.

  Raises:
    InputError: In place of such an error.
  """
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    found = _LINE.search(error.message)
    if not found:
      raise
    raise errors.InputError(
      found["expected"], found["received"], found["path"]
    ) from None
