"""Boxes in images as Boxes messages, in memory and in `.boxes` files."""

import numpy as np
from google.protobuf import message

from delf.base import errors, files
from delf.formats import wire
from delf.protos import box_pb2

_INT32 = np.iinfo(np.int32)


def ArraysToBoxes(boxes, scores, class_indices):
  """Converts arrays to a Boxes message.

  Args:
    boxes: [N, 4] float, (ymin, xmin, ymax, xmax), of the image's height and
      width in [0, 1].
    scores: [N] float.
    class_indices: [N] integers, or floats that hold integers, as detectors
      deliver them.

  Returns:
    Boxes. Floats are rounded to float32.

  Raises:
    InputError: If the shapes do not fit together, a box or score is no number,
      or a class index no int32.
  """
  scores = wire.to_float32(scores, "scores")
  boxes = wire.to_float32(boxes, "boxes")
  class_indices = np.asarray(class_indices)
  number = len(scores) if scores.ndim == 1 else -1
  if number == 0 and boxes.size == 0:
    boxes = boxes.reshape([0, 4])
  _check_shape("scores", scores, (number,))
  _check_shape("boxes", boxes, (number, 4))
  _check_shape("class indices", class_indices, (number,))
  result = box_pb2.Boxes()
  for box, score, class_index in zip(
    boxes.tolist(), scores.tolist(), _integers(class_indices), strict=True
  ):
    ymin, xmin, ymax, xmax = box
    result.box.add(
      ymin=ymin,
      xmin=xmin,
      ymax=ymax,
      xmax=xmax,
      score=score,
      class_index=class_index,
    )
  return result


def BoxesToArrays(boxes_proto):
  """Converts a Boxes message to arrays.

  Args:
    boxes_proto: Boxes.

  Returns:
    boxes [N, 4] as (ymin, xmin, ymax, xmax), scores [N] and class_indices [N],
    all float64, as in the original. Without boxes N is 0.
  """
  boxes = [[b.ymin, b.xmin, b.ymax, b.xmax] for b in boxes_proto.box]
  scores = [box.score for box in boxes_proto.box]
  class_indices = [box.class_index for box in boxes_proto.box]
  return (
    np.array(boxes, dtype=np.float64).reshape([-1, 4]),
    np.array(scores, dtype=np.float64),
    np.array(class_indices, dtype=np.float64),
  )


def SerializeToString(boxes, scores, class_indices):
  """Converts arrays, as in `ArraysToBoxes`, to bytes."""
  return ArraysToBoxes(boxes, scores, class_indices).SerializeToString()


def ParseFromString(string):
  """Converts bytes to arrays, as in `BoxesToArrays`."""
  return _parse(string, None)


def ReadFromFile(file_path):
  """Reads the arrays of a `.boxes` file, as in `BoxesToArrays`.

  Args:
    file_path: Path of the file.

  Returns:
    boxes, scores, class_indices.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is cut within a box, or is not a Boxes message.
  """
  return _parse(files.read_bytes(file_path), file_path)


def WriteToFile(file_path, boxes, scores, class_indices):
  """Writes arrays, as in `ArraysToBoxes`, to a file."""
  files.write_bytes(file_path, SerializeToString(boxes, scores, class_indices))


def _check_shape(name, array, shape):
  if array.shape != shape:
    wanted = ["N" if size < 0 else size for size in shape]
    raise errors.InputError(
      f"{name} of shape [{', '.join(map(str, wanted))}]",
      f"shape {list(array.shape)}",
    )


def _integers(class_indices):
  """Returns class indices as a list of int; floats must hold integers."""
  if not class_indices.size:
    return []
  if class_indices.dtype.kind not in "iuf":
    raise errors.InputError(
      "integers as class indices", f"an array of type {class_indices.dtype}"
    )
  wrong = ~(
    (class_indices >= _INT32.min)
    & (class_indices <= _INT32.max)
    & (np.trunc(class_indices) == class_indices)
  )
  if wrong.any():
    raise errors.InputError(
      "int32 as class indices", f"{class_indices[wrong][0]}"
    )
  return class_indices.astype(np.int64).tolist()


def _parse(data, path):
  try:
    return BoxesToArrays(box_pb2.Boxes.FromString(data))
  except message.DecodeError:
    raise errors.InputError(
      "whole Boxes",
      f"{len(data)} bytes that are cut or of another format",
      path,
    ) from None
