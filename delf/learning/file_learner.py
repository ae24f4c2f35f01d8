"""Learners that draw batches by step and keep their state in one file."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from delf.base import arrays as base_arrays
from delf.base import concurrency
from delf.learning import loop

_COUNTERS = ("step", "seconds")


class FileLearner(loop.Learner):
  """Base class of learners of self-supervised models and of detectors."""

  terms: Sequence[str] = ()  # Names of the metrics of a step.
  kind: str = "a checkpoint of training"  # In error messages.

  def __init__(
    self,
    draw: Callable[[int], Any] | None = None,
    path: str | os.PathLike | None = None,
  ):
    """Create the learner.

    Args:
      draw: Makes the batch of a step, in threads ahead of time; the batch has
        `pools`, the numbers of the places that it shows.
      path: File of the checkpoint.
    """
    self._draw = draw
    self.path = None if path is None else pathlib.Path(path)

  def variables(self) -> list:
    """Return all that later steps depend on, always in the same order."""
    raise NotImplementedError

  def resume(self) -> None:
    """Restore the checkpoint, if there is one; InputError if it is another."""
    if self.path.exists():
      arrays = restore(self.variables(), self.path, self.kind)
      self.step, self.seconds = int(arrays["step"]), float(arrays["seconds"])
      self.checkpoint = self.path

  def save(self) -> pathlib.Path:
    """Write the variables and the counters."""
    counters = {"step": np.int64(self.step)}
    counters["seconds"] = np.float64(self.seconds)
    loop.write_state(self.path, self.variables(), **counters)
    return self.path

  def batches(self) -> Iterator:
    """Return the batches of the steps from here on, without end."""
    workers = max(1, concurrency.core_count() // 2)
    steps = itertools.count(self.step)
    return concurrency.map_ahead(self._draw, steps, workers, workers + 2)

  def describe(self, batch) -> str:
    """Return the places that a batch shows."""
    return f"a batch of places {', '.join(map(str, batch.pools))}"

  def metrics(self, values) -> dict[str, float]:
    """Return the values of `terms` by name."""
    return dict(zip(self.terms, values.numpy().tolist(), strict=True))


def restore(
  variables: Sequence,
  path: str | os.PathLike,
  kind: str = FileLearner.kind,
) -> Mapping[str, np.ndarray]:
  """Assign the first variables of a checkpoint; return all of its arrays."""
  arrays = base_arrays.read_npz(path, kind, _COUNTERS)
  loop.assign_state(variables, arrays, path)
  return arrays
