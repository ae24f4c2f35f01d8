"""How a run goes, on one line for people and in lines for logs."""

from absl import logging

from delf.python import progress
from delf.python.training.supervised import objectives, observers, step_rate

# Metric and the word for it on the line; the rest is in TensorBoard.
_WORDS = {
  objectives.DESCRIPTOR: "desc",
  objectives.ATTENTION: "attn",
  objectives.RECONSTRUCTION: "recon",
}
# Where one metric differs from step to step, a mean says more; of so many.
_MEAN_OF = 20


class Live(observers.Observer):
  """Shows step, rate, losses, accuracy and the time that is left.

  On a terminal that is a bar; elsewhere, as in a log, it is a line at each
  report. Numbers are means over the last steps.
  """

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one line of a log to the next.
    """
    self._every = every
    self._recent = []
    self._bar = self._rate = self._last = None

  def start(self, run):
    """Shows where the run is."""
    self._last = run.settings.learning.max_iters
    self._rate = step_rate.StepRate(run.step)
    if progress.is_terminal():
      self._bar = progress.count("training", self._last, run.step)

  def on_step(self, step, metrics, batch):
    """Shows a step."""
    self._recent = [*self._recent[1 - _MEAN_OF :], metrics]
    if self._bar is not None:
      self._bar.set_postfix_str(self._words(), refresh=False)
      self._bar.update(1)
    elif step % self._every == 0:
      rate = self._rate.since(step)
      left = progress.duration((self._last - step) / max(rate, 1e-9))
      words = f"{self._words()}, {rate:.3g} steps/s, {left} left"
      logging.info("step %d of %d: %s", step, self._last, words)

  def on_validation(self, step, metrics):
    """Shows the accuracy on validation photos."""
    parts = [f"{n.rpartition('/')[2]} {v:.1%}" for n, v in metrics.items()]
    words = f"validation at step {step}: accuracy {', '.join(parts)}"
    if self._bar is None:
      logging.info("%s", words)
    else:
      progress.say(words)

  def close(self):
    """Leaves the line as it is."""
    if self._bar is not None:
      self._bar.close()

  def _words(self):
    losses = [
      f"{word} {self._mean(name):.3g}"
      for name, word in _WORDS.items()
      if name in self._recent[-1]
    ]
    shares = [
      f"{self._mean(name):.1%}" for name in objectives.ACCURACY.values()
    ]
    return f"loss {', '.join(losses)}, accuracy {' and '.join(shares)}"

  def _mean(self, name):
    return sum(each[name] for each in self._recent) / len(self._recent)
