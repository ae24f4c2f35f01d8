import json

import numpy as np
import pytest

from delf.base import errors
from delf.python import box_io
from tests.stand_ins import npz

# Where the original is wrong and this library differs, with the reason.
_OVERRIDDEN = {
  "boxes/n6_f32_floatcls": "detectors deliver class indices as floats",
  "boxes/n6_f64_floatcls": "detectors deliver class indices as floats",
  "boxes/n6_nonint_floatcls": "a ValueError in place of a TypeError",
  "boxes/empty": "arrays without boxes keep their rank",
}
_SHAPES = ([0, 4], [0], [0])


def _check_same(found, expected):
  for array, wanted in zip(found, expected, strict=True):
    assert array.dtype == np.float64
    assert array.shape == wanted.shape
    np.testing.assert_array_equal(array, wanted)


def test_goldens(goldens, tmp_path):
  index = json.loads((goldens / "io_index.json").read_text())
  cases = {k: v for k, v in index.items() if k.startswith("boxes/")}
  names = ("boxes", "scores", "class_indices")
  for case, record in cases.items():
    if record["write"] != "ok":
      assert case in _OVERRIDDEN
      continue
    golden = npz.read(goldens / f"io_{case.replace('/', '_')}.npz")
    inputs = [golden[f"in_{name}"] for name in names]
    path = tmp_path / "a.boxes"
    box_io.WriteToFile(path, *inputs)
    assert path.read_bytes() == golden["bytes"].tobytes(), case
    expected = [golden[f"out_{name}"] for name in names]
    if case in _OVERRIDDEN:
      expected = [np.zeros(shape) for shape in _SHAPES]
    _check_same(box_io.ReadFromFile(path), expected)
    _check_same(box_io.BoxesToArrays(box_io.ArraysToBoxes(*inputs)), expected)
  assert len(cases) == 6


def _arrays():
  rng = np.random.default_rng(3)
  boxes = rng.random([3, 4], dtype=np.float32)
  return boxes, rng.random([3], dtype=np.float32), np.array([0.0, -2.0, 90001])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_class_indices_may_be_floats(dtype):
  boxes, scores, classes = _arrays()
  data = box_io.SerializeToString(boxes, scores, classes.astype(dtype))
  _check_same(box_io.ParseFromString(data), (boxes, scores, classes))


@pytest.mark.parametrize(
  "classes",
  [[0, 1, 1.5], [0, 1, np.nan], [0, 1, 2**31], [0, 1, np.inf], ["a"] * 3],
)
def test_class_indices_that_are_no_int32(classes):
  boxes, scores, _ = _arrays()
  with pytest.raises(errors.InputError, match="class indices"):
    box_io.SerializeToString(boxes, scores, np.array(classes))


def test_shapes_that_do_not_fit():
  boxes, scores, classes = _arrays()
  for wrong in (
    (boxes[:2], scores, classes),
    (boxes[:, :3], scores, classes),
    (boxes, scores[:2], classes),
    (boxes, scores[:, None], classes),
    (boxes, scores, classes[:2]),
    (boxes[:1], scores[0], classes[:1]),
  ):
    with pytest.raises(errors.InputError, match="shape"):
      box_io.SerializeToString(*wrong)


def test_boxes_and_scores_must_be_numbers():
  boxes, scores, classes = _arrays()
  with pytest.raises(errors.InputError, match="scores must be numbers"):
    box_io.SerializeToString(boxes, ["high"] * 3, classes)
  with pytest.raises(errors.InputError, match="boxes must be numbers"):
    box_io.SerializeToString(boxes.astype(str), scores, classes)


def test_files_cut_at_every_byte(tmp_path):
  """Only a cut between two boxes leaves a whole, shorter, file."""
  arrays = _arrays()
  data = box_io.SerializeToString(*arrays)
  ends = [
    len(box_io.SerializeToString(*(a[:n] for a in arrays))) for n in (1, 2)
  ]
  path = tmp_path / "cut.boxes"
  for length in range(1, len(data)):
    path.write_bytes(data[:length])
    if length in ends:
      assert len(box_io.ReadFromFile(path)[0]) == 1 + ends.index(length)
      continue
    with pytest.raises(errors.InputError, match="cut.boxes"):
      box_io.ReadFromFile(path)


def test_changed_bytes_raise_nothing_but_value_errors():
  rng = np.random.default_rng(4)
  data = np.frombuffer(box_io.SerializeToString(*_arrays()), dtype=np.uint8)
  for _ in range(2000):
    changed = data.copy()
    changed[rng.integers(0, len(data), 2)] = rng.integers(0, 256, 2)
    try:
      boxes, scores, classes = box_io.ParseFromString(changed.tobytes())
      assert len(boxes) == len(scores) == len(classes)
    except ValueError as error:
      assert isinstance(error, errors.InputError)
