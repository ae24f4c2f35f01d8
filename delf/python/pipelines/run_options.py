"""How work on many images is done, whatever it is."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Options of each pass over many images.

  Attributes:
    names: Output name of each image, without extension and relative to the
      output folder, or None for their base names.
    resume: Whether images whose files, all that are asked for, are there and
      whole are left as they are. If not, all are done again.
    batch_size: Most images to run at once, or None: one on a CPU, and on a GPU
      as many of one size as `batching.MEMORY_BUDGET` allows.
    workers: Threads that decode; 0 decodes in between.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.
    apply_rotation: Whether images are turned as their EXIF orientation says.
      The original does not, and its results are of the image as it is stored.
    strict: Whether the first image that fails ends the work.
  """

  names: Sequence[str] | None = None
  resume: bool = True
  batch_size: int | None = None
  workers: int = 1
  device: str | None = None
  apply_rotation: bool = False
  strict: bool = False
