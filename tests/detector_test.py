import numpy as np
import pytest

from delf.base import errors
from delf.inference import detector
from tests.stand_ins import tiny_detector


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("detectors")
  return {
    "graph": tiny_detector.save_graph(root / "graph"),
    "function": tiny_detector.save_function(root / "function"),
  }


def _photo(height, width, box):
  """Returns a dark image with a bright box, (top, left, bottom, right)."""
  image = np.zeros([height, width, 3], np.uint8)
  top, left, bottom, right = box
  image[top:bottom, left:right] = 255
  return image


@pytest.mark.parametrize("kind", ["graph", "function"])
def test_both_kinds_find_boxes_in_images_of_one_size(folders, kind):
  made = detector.load(folders[kind], "cpu")
  assert made.is_tf2 == (kind == "function")
  images = [_photo(20, 40, (5, 10, 15, 30)), _photo(20, 40, (0, 0, 20, 40))]
  first, second = made.detect(np.stack(images))
  np.testing.assert_allclose(first.boxes, [[0.25, 0.25, 0.75, 0.75]])
  np.testing.assert_allclose(first.scores, [0.25])
  np.testing.assert_array_equal(first.classes, [1])
  np.testing.assert_allclose(second.boxes, [[0, 0, 1, 1]])
  assert first.boxes.dtype == first.scores.dtype == np.float32
  assert first.classes.dtype == np.int32


@pytest.mark.parametrize("kind", ["graph", "function"])
def test_a_batch_gives_what_each_image_gives_alone(folders, kind):
  made = detector.load(folders[kind])
  images = np.stack([_photo(30, 30, (i, 2 * i, 20, 25)) for i in range(5)])
  for image, found in zip(images, made.detect(images), strict=True):
    (alone,) = made.detect(image[None])
    np.testing.assert_array_equal(found.boxes, alone.boxes)
    np.testing.assert_array_equal(found.scores, alone.scores)


def test_one_graph_runs_images_of_all_sizes(folders):
  traces = []

  def find(images):
    traces.append(1)
    return tiny_detector.bright(images)

  made = detector.load(
    tiny_detector.save_function(folders["graph"].parent / "counted", find)
  )
  number = len(traces)
  for height, width in ((10, 20), (20, 10), (33, 47)):
    (found,) = made.detect(_photo(height, width, (1, 1, 5, 5))[None])
    assert len(found) == 1
  assert len(traces) == number


@pytest.mark.parametrize("kind", ["graph", "function"])
def test_an_image_of_nothing_has_no_detections(folders, kind):
  (found,) = detector.load(folders[kind]).detect(
    np.zeros([1, 9, 9, 3], np.uint8)
  )
  assert found.boxes.shape == (0, 4)
  assert found.scores.shape == found.classes.shape == (0,)


def test_run_keeps_what_the_model_gives(folders):
  found = detector.load(folders["graph"]).run(np.zeros([2, 9, 9, 3], np.uint8))
  assert [array.shape for array in found] == [(2, 3, 4), (2, 3), (2, 3)]


def test_a_detector_of_one_image_at_a_time_takes_several(tmp_path):
  shape = (1, None, None, 3)
  made = detector.load(
    tiny_detector.save_function(tmp_path / "one", shape=shape)
  )
  images = np.stack([_photo(8, 8, (0, 0, 8, 4)), _photo(8, 8, (0, 0, 4, 8))])
  found = made.detect(images)
  np.testing.assert_allclose(found[0].boxes, [[0, 0, 1, 0.5]])
  np.testing.assert_allclose(found[1].boxes, [[0, 0, 0.5, 1]])


@pytest.mark.parametrize("kind", ["graph", "function"])
@pytest.mark.parametrize("number", [1, None])
def test_a_detector_of_a_fixed_size_gets_images_in_it(tmp_path, kind, number):
  seen = []

  def find(images):
    seen.append(tuple(images.shape))
    return tiny_detector.bright(images)

  save = getattr(tiny_detector, f"save_{kind}")
  shape = (number, 16, 8, 3)
  made = detector.load(save(tmp_path / "m", find, shape=shape), "cpu")
  images = np.stack(
    [_photo(32, 64, (8, 16, 24, 32)), _photo(32, 64, (0, 0, 32, 64))]
  )
  first, second = made.detect(images)
  assert set(seen) == {shape}
  # Shares of the image, whose sides were scaled by two different factors.
  np.testing.assert_allclose(first.boxes, [[0.25, 0.25, 0.75, 0.5]])
  np.testing.assert_allclose(second.boxes, [[0, 0, 1, 1]])


def test_a_detector_of_a_fixed_height_keeps_the_width(tmp_path):
  shape = (None, 8, None, 3)
  made = detector.load(tiny_detector.save_function(tmp_path / "m", shape=shape))
  (found,) = made.detect(_photo(16, 5, (4, 1, 12, 4))[None])
  np.testing.assert_allclose(found.boxes, [[0.25, 0.2, 0.75, 0.8]])


def test_a_detector_of_a_fixed_number_says_which(tmp_path):
  shape = (3, None, None, 3)
  made = detector.load(tiny_detector.save_function(tmp_path / "m", shape=shape))
  with pytest.raises(errors.InputError, match=r"\(3, .*\[1, 9, 8, 3\]"):
    made.detect(np.zeros([1, 9, 8, 3], np.uint8))


@pytest.mark.parametrize(
  ("options", "received"),
  [
    ({"names": ("boxes", "scores", "classes")}, "boxes, classes"),
    ({"names": tiny_detector.NAMES[:2]}, "detection_boxes, detection_scores"),
    ({"image": "image_tensor"}, "image_tensor"),
  ],
)
def test_other_tensors_are_one_line(tmp_path, options, received):
  folder = tiny_detector.save_function(tmp_path / "other", **options)
  with pytest.raises(errors.InputError) as error:
    detector.load(folder)
  text = str(error.value)
  assert text.startswith(f"{folder}: a detector needs the tensors input_images")
  assert received in text.partition("model has")[2] and "\n" not in text


@pytest.mark.parametrize(
  "images",
  [
    np.zeros([9, 9, 3], np.uint8),
    np.zeros([1, 9, 9, 4], np.uint8),
    np.zeros([1, 9, 9, 3], np.float32),
  ],
)
def test_what_is_no_image_is_refused(folders, images):
  with pytest.raises(errors.InputError, match=r"uint8 of shape \[B, H, W, 3\]"):
    detector.load(folders["graph"]).run(images)


def test_boxes_in_pixels_name_the_detector(tmp_path):
  find = tiny_detector.always([[10, 20, 300, 400]], [0.9])
  folder = tiny_detector.save_function(tmp_path / "pixels", find)
  with pytest.raises(errors.InputError, match="not pixels") as error:
    detector.load(folder).detect(np.zeros([1, 9, 9, 3], np.uint8))
  assert str(folder) in str(error.value)


def test_missing_folder():
  with pytest.raises(errors.InputError, match="/nowhere"):
    detector.load("/nowhere/detector")
