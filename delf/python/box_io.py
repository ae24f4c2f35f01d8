"""Boxes in images as Boxes messages, in memory and in `.boxes` files."""

import numpy as np

from delf.base import errors, files
from delf.formats import wire
from delf.protos import box_pb2

_INT32 = np.iinfo(np.int32)

# Boxes, scores, class indices.
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def ArraysToBoxes(
  boxes: np.ndarray, scores: np.ndarray, class_indices: np.ndarray
) -> box_pb2.Boxes:
  """Convert arrays to a Boxes message; floats are rounded to float32.

  Boxes are [N, 4], (ymin, xmin, ymax, xmax), as shares of the image's sides in
  [0, 1]; scores are [N]; class indices are [N] integers, or floats with integer
  values, as detectors return.
  """
  scores = wire.to_float32(scores, "scores")
  boxes = wire.to_float32(boxes, "boxes")
  class_indices = np.asarray(class_indices)
  number = len(scores) if scores.ndim == 1 else "N"
  if number == 0 and boxes.size == 0:
    boxes = boxes.reshape([0, 4])
  for name, array, shape in (
    ("scores", scores, (number,)),
    ("boxes", boxes, (number, 4)),
    ("class indices", class_indices, (number,)),
  ):
    if array.shape != shape:
      raise errors.InputError(
        f"{name} must have shape [{', '.join(map(str, shape))}], not "
        f"{list(array.shape)}"
      )
  result = box_pb2.Boxes()
  for box, score, class_index in zip(
    boxes.tolist(), scores.tolist(), _integers(class_indices), strict=True
  ):
    sides = dict(zip(("ymin", "xmin", "ymax", "xmax"), box, strict=True))
    result.box.add(score=score, class_index=class_index, **sides)
  return result


def BoxesToArrays(boxes_proto: box_pb2.Boxes) -> Arrays:
  """Convert a Boxes message to float64 arrays, as in the original.

  Boxes are [N, 4] as (ymin, xmin, ymax, xmax), scores and class indices [N].
  """
  rows = [
    (b.ymin, b.xmin, b.ymax, b.xmax, b.score, b.class_index)
    for b in boxes_proto.box
  ]
  columns = np.array(rows, dtype=np.float64).reshape([-1, 6])
  return columns[:, :4].copy(), columns[:, 4].copy(), columns[:, 5].copy()


def SerializeToString(
  boxes: np.ndarray, scores: np.ndarray, class_indices: np.ndarray
) -> bytes:
  """Convert arrays, as in `ArraysToBoxes`, to bytes."""
  return ArraysToBoxes(boxes, scores, class_indices).SerializeToString()


def ParseFromString(string: bytes) -> Arrays:
  """Convert bytes to arrays, as in `BoxesToArrays`."""
  return BoxesToArrays(wire.parse_message(box_pb2.Boxes, string))


def ReadFromFile(file_path: files.Path) -> Arrays:
  """Read the arrays of a `.boxes` file, as in `BoxesToArrays`."""
  data = files.read_bytes(file_path)
  return BoxesToArrays(wire.parse_message(box_pb2.Boxes, data, file_path))


def WriteToFile(
  file_path: files.Path,
  boxes: np.ndarray,
  scores: np.ndarray,
  class_indices: np.ndarray,
) -> None:
  """Write arrays, as in `ArraysToBoxes`, to a file."""
  files.write_bytes(file_path, SerializeToString(boxes, scores, class_indices))


def _integers(class_indices):
  """Return class indices as a list of int; floats must be integral."""
  if not class_indices.size:
    return []
  if class_indices.dtype.kind not in "iuf":
    raise errors.InputError(
      f"class indices must be integers, not {class_indices.dtype}"
    )
  wrong = ~(
    (class_indices >= _INT32.min)
    & (class_indices <= _INT32.max)
    & (np.trunc(class_indices) == class_indices)
  )
  if wrong.any():
    first = class_indices[wrong][0]
    raise errors.InputError(f"class indices must be int32, not {first}")
  return class_indices.astype(np.int64).tolist()
