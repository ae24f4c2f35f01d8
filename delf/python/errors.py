"""The error that says what is wrong with what the user gave."""


class InputError(ValueError):
  """Something the user gave (a file, a value) is not what is expected.

  The text is one line that says what was expected, what was received and, where
  there is one, which file. Command lines print it without a traceback.
  """

  def __init__(self, expected, received, path=None):
    """Creates the error.

    Args:
      expected: What was expected, as words that follow "expected".
      received: What was received, as words that follow "received".
      path: File or folder that it is about, or None.
    """
    where = f"{path}: " if path is not None else ""
    super().__init__(f"{where}expected {expected}, received {received}")
    self.expected, self.received, self.path = expected, received, path
