"""How many steps a run makes in a second."""

import time


class StepRate:
  """Counts from one look to the next."""

  def __init__(self, step):
    """Starts the clock.

    Args:
      step: Steps made before.
    """
    self._step, self._time = step, time.monotonic()

  def since(self, step):
    """Returns the steps of a second since the last look.

    Args:
      step: Steps made.
    """
    now = time.monotonic()
    number, seconds = step - self._step, now - self._time
    self._step, self._time = step, now
    return number / max(seconds, 1e-9)
