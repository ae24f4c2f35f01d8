"""Detection as a function that returns arrays, as in the original."""

from collections.abc import Callable


def MakeDetector(model_dir: str) -> Callable:
  """Make a function that detects boxes in images of one size.

  `model_dir` is the folder of a SavedModel, of TensorFlow 1 or 2, or the name
  of a known detector.

  Returns:
    Function of images, [B, H, W, 3] uint8, that returns the model's (boxes,
    scores, class_indices): [B, M, 4] float32 (ymin, xmin, ymax, xmax) in
    [0, 1], [B, M] and [B, M].
  """
  from delf.inference import detector

  return detector.load(model_dir).run
