"""What is told how a run goes: summaries, lines, diagnoses are observers."""

import dataclasses

from absl import logging


@dataclasses.dataclass(frozen=True)
class Run:
  """What a run works with, for those who watch it.

  Attributes:
    settings: settings.Settings.
    model: delf_model.Delf, in training.
    source: data_source.Source, or one with its functions.
    step: Steps made before.
    train_logs: Folder of the TensorBoard files.
  """

  settings: object
  model: object
  source: object
  step: int
  train_logs: str


@dataclasses.dataclass(frozen=True)
class Batch:
  """What a step has seen and found; arrays over all devices.

  Attributes:
    images: float32 [B, H, W, 3], normalised.
    labels: int64 [B].
    guesses: dict of "desc" and "attn" to int64 [B], the likeliest classes.
    attention: float32 [B, H', W', 1].
    sparsity: dict of tag to float, shares of zeros in the feature maps.
  """

  images: object
  labels: object
  guesses: dict
  attention: object
  sparsity: dict


class Observer:
  """Does nothing of what it is told; others override what they want."""

  def start(self, run):
    """Is told that a run starts, or goes on.

    Args:
      run: Run.
    """

  def wants(self, step):
    """Returns whether `on_step` is to get a batch after this many steps."""
    return False

  def on_step(self, step, metrics, batch):
    """Is told of a step.

    Args:
      step: Steps made.
      metrics: dict of TensorBoard tag to float.
      batch: Batch, or None if no observer wants it.
    """

  def on_validation(self, step, metrics):
    """Is told of a validation; `metrics` is a dict of tag to float."""

  def on_save(self, step, path):
    """Is told that a checkpoint of prefix `path` is written."""

  def close(self):
    """Lets go of what it holds: the run has ended, or an error has ended it.

    It is called however a run ends, even if `start` has raised.
    """


class Log(Observer):
  """Logs a line now and then."""

  def __init__(self, every):
    """Creates it; a line every so many steps."""
    self._every = every

  def on_step(self, step, metrics, batch):
    """Logs the metrics of some steps."""
    if step % self._every == 0:
      logging.info("step %d: %s", step, _words(metrics))

  def on_validation(self, step, metrics):
    """Logs the metrics."""
    logging.info("validation at step %d: %s", step, _words(metrics))


def _words(metrics):
  return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
