"""What TensorBoard shows of a run, by the tags that users know."""

import numpy as np

from delf.python.training.supervised import board_file, observers, step_rate

_PERCENTILES = (25, 50, 75)
# Photos of a batch that are shown.
_SHOWN = 3


class Summaries(observers.Observer):
  """Writes the files of TensorBoard."""

  def __init__(self, every):
    """Creates it.

    Args:
      every: Steps from one summary to the next.
    """
    self._every = every
    self._file = self._rate = None

  def start(self, run):
    """Begins a file; those of earlier runs stay."""
    self._file = board_file.BoardFile(run.train_logs)
    self._rate = step_rate.StepRate(run.step)

  def wants(self, step):
    """Returns whether a summary is due."""
    return step % self._every == 0

  def on_step(self, step, metrics, batch):
    """Writes losses, rates and what a batch looks like."""
    if not self.wants(step):
      return
    scalars = metrics | batch.sparsity | _ranges(batch)
    scalars["global_steps_per_sec"] = self._rate.since(step)
    attention = batch.attention[:_SHOWN].astype(np.float32)
    images = {
      "batch_images": np.clip((batch.images[:_SHOWN] + 1) / 2, 0, 1),
      "batch_attention": attention / max(float(attention.max()), 1e-9),
    }
    self._file.write(step, scalars, images)

  def on_validation(self, step, metrics):
    """Writes the accuracy on validation photos."""
    self._file.write(step, metrics)

  def on_save(self, step, path):
    """Writes out what is waiting: a checkpoint is worth its curve."""
    self._file.flush()

  def close(self):
    """Closes the file."""
    if self._file is not None:
      self._file.close()


def _ranges(batch):
  """Returns a dict of tag to float: extremes of a batch and of its attention.

  A percentile is the value that is nearest to it, as the original has it.
  """
  attention = batch.attention.astype(np.float32)
  found = {
    "image_range/min": batch.images.min(),
    "image_range/max": batch.images.max(),
    "attention/max": attention.max(),
    "attention/min": attention.min(),
    "attention/mean": attention.mean(),
  }
  values = np.percentile(attention, _PERCENTILES, method="nearest")
  for percent, value in zip(_PERCENTILES, values, strict=True):
    found[f"attention/percent_{percent}"] = value
  return {tag: float(value) for tag, value in found.items()}
