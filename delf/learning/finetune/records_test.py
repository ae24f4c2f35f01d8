import numpy as np
import pytest
from PIL import Image

from delf.learning.finetune import records


@pytest.fixture
def paths(tmp_path):
  generator = np.random.default_rng(0)
  found = []
  for i, size in enumerate([(120, 80), (100, 200), (40, 40)]):
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    found.append(tmp_path / f"{i}.png")
    Image.fromarray(pixels).save(found[-1])
  return found


def test_photos_are_scaled_down_and_not_up(paths, tmp_path):
  store = records.gather(paths, tmp_path / "store", size=100)
  shapes = [image.shape for image in store.images]
  assert shapes == [(67, 100, 3), (100, 50, 3), (40, 40, 3)]
  with Image.open(paths[2]) as small:
    np.testing.assert_array_equal(store.images[2], np.asarray(small))


def test_bad_photos_are_failures_and_the_others_stay(paths, tmp_path):
  (tmp_path / "bad.jpg").write_bytes(b"no photo")
  narrow = tmp_path / "narrow.png"
  Image.new("RGB", (400, 20)).save(narrow)
  given = [paths[0], tmp_path / "bad.jpg", narrow, paths[2]]
  store = records.gather(given, tmp_path / "store", size=100)
  assert [image is None for image in store.images] == [False, True, True, False]
  bad, small = store.failures
  assert bad.path.endswith("bad.jpg") and "expected an image" in bad.reason
  assert small.path.endswith("narrow.png") and "100 x 5" in small.reason
  with Image.open(paths[2]) as last:
    np.testing.assert_array_equal(store.images[3], np.asarray(last))


def test_a_run_that_is_repeated_decodes_nothing(paths, tmp_path):
  first = records.gather(paths, tmp_path / "store", size=100)
  for path in paths:
    path.unlink()
  again = records.gather(paths, tmp_path / "store", size=100)
  for one, two in zip(first.images, again.images, strict=True):
    np.testing.assert_array_equal(one, two)


def test_no_photo_at_all(tmp_path):
  (tmp_path / "bad.jpg").write_bytes(b"")
  store = records.gather([tmp_path / "bad.jpg"], tmp_path / "s", size=100)
  assert store.images == [None] and len(store.failures) == 1


def test_a_photo_that_changes_is_another(paths):
  before = records.digest_photo_store(paths)
  assert records.digest_photo_store(paths) == before
  Image.new("RGB", (9, 9)).save(paths[1])
  assert records.digest_photo_store(paths) != before
