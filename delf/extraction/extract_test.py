import json
import logging
import os
import signal
import threading

import numpy as np
import PIL.Image
import pytest

from delf.base import errors, files
from delf.extraction import extract
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python import datum_io, feature_io


class PatchExtractor:
  """Describes an image's 16 x 16 patches by their colours and gradients."""

  device = "CPU"

  def __init__(self):
    self.batches = []

  def extract(self, image, resize_factor=1.0):
    return self._extract(image)

  def extract_batch(self, images):
    self.batches.append(len(images))
    return [self._extract(image) for image in images]

  def _extract(self, image):
    rows, columns = image.shape[0] // 16, image.shape[1] // 16
    if min(image.shape[:2]) < 16:
      return features.ImageFeatures(features.LocalFeatures.empty(5))
    image = image[: rows * 16, : columns * 16] / np.float32(255)
    patches = image.reshape(rows, 16, columns, 16, 3).swapaxes(1, 2)
    patches = patches.reshape(-1, 16, 16, 3)
    grey = patches.mean(axis=3)
    descriptors = np.concatenate(
      [
        patches.mean(axis=(1, 2)),
        np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2))[:, None],
        np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))[:, None],
      ],
      axis=1,
    )
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * 16 + 7.5
    return features.ImageFeatures(
      features.LocalFeatures(
        locations=np.stack([y, x], axis=1),
        scales=np.ones(len(y), np.float32),
        descriptors=descriptors,
        attention=grey.std(axis=(1, 2)),
      ),
      global_descriptor=descriptors.mean(axis=0),
    )


@pytest.fixture
def photos(tmp_path):
  """Six images of noise, in two sizes; returns their paths."""
  generator = np.random.default_rng(5)
  folder = tmp_path / "photos"
  folder.mkdir()
  paths = []
  for i in range(6):
    shape = (48, 64, 3) if i % 2 else (64, 80, 3)
    path = folder / f"photo_{i}.png"
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    paths.append(str(path))
  return paths


@pytest.fixture
def config():
  return delf_config_pb2.DelfConfig(
    image_scales=[1.0], use_local_features=True, use_global_features=True
  )


def _extract(images, config, folder, **options):
  options.setdefault("extractor", PatchExtractor())
  return extract.extract_to_files(images, config, folder, **options)


def _read_all(folder):
  found = {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
  if extract.PHOTOS in found:  # Batches finish in another order.
    found[extract.PHOTOS] = sorted(found[extract.PHOTOS].split())
  return found


def test_files_hold_what_was_extracted(photos, config, tmp_path):
  report = _extract(photos, config, tmp_path / "out")
  assert report.done == tuple(photos)
  assert not report.failed
  assert report.images_per_second > 0
  image = np.asarray(PIL.Image.open(photos[1]))
  expected = PatchExtractor().extract(image)
  read = feature_io.ReadFromFile(tmp_path / "out" / "photo_1.delf")
  np.testing.assert_array_equal(read[0], expected.local.locations)
  np.testing.assert_array_equal(read[2], expected.local.descriptors)
  descriptor = datum_io.ReadFromFile(tmp_path / "out" / "photo_1.delg_global")
  np.testing.assert_array_equal(descriptor, expected.global_descriptor)


@pytest.mark.parametrize(
  ("local", "whole", "extension", "expected"),
  [
    (True, False, files.DELF, {".delf"}),
    (True, True, files.DELG_LOCAL, {".delg_local", ".delg_global"}),
    (False, True, files.DELF, {".delg_global"}),
  ],
)
def test_what_is_asked_for(
  photos, config, tmp_path, local, whole, extension, expected
):
  config.use_local_features, config.use_global_features = local, whole
  _extract(photos[:1], config, tmp_path, local_extension=extension)
  found = {path.suffix for path in tmp_path.glob("photo_0.*")}
  assert found == expected


@pytest.mark.parametrize(
  "options", [{"batch_size": 3}, {"workers": 3}, {"workers": 0}]
)
def test_batches_and_threads_give_the_same_files(
  photos, config, tmp_path, options
):
  _extract(photos, config, tmp_path / "plain")
  extractor = PatchExtractor()
  _extract(photos, config, tmp_path / "other", extractor=extractor, **options)
  assert _read_all(tmp_path / "plain") == _read_all(tmp_path / "other")
  assert extractor.batches == ([3, 3] if "batch_size" in options else [])


def _features(files_or_folder):
  """Returns {name: content} of the feature files alone."""
  found = files_or_folder
  if not isinstance(found, dict):
    found = _read_all(found)
  return {name: data for name, data in found.items() if ".del" in name}


def test_files_without_a_record_of_their_photo_are_read_and_kept(
  photos, config, tmp_path, caplog
):
  out = tmp_path / "out"
  _extract(photos, config, out)
  before = _read_all(out)
  for record in (extract.RECORD, extract.PHOTOS):
    (out / record).unlink()
  cut = before["photo_2.delf"][:-3]
  (out / "photo_2.delf").write_bytes(cut)
  with caplog.at_level(logging.WARNING, logger="absl"):
    report = _extract(photos, config, out)
  assert report.done == (photos[2],)
  assert _features(out) == _features(before)
  (warning,) = caplog.records
  assert "kept features of 5 images without a record" in warning.getMessage()


def test_recorded_files_need_not_be_read(
  photos, config, tmp_path, monkeypatch, caplog
):
  _extract(photos, config, tmp_path / "out")
  for module in (feature_io, datum_io):
    monkeypatch.setattr(module, "ReadFromFile", None)
  with caplog.at_level(logging.INFO, logger="absl"):
    assert len(_extract(photos, config, tmp_path / "out").skipped) == 6
  assert not caplog.records


def test_another_photo_of_a_name_is_done_again(
  photos, config, tmp_path, caplog
):
  out = tmp_path / "out"
  _extract(photos, config, out)
  before = _read_all(out)
  # The data set was moved, and one photo is another one.
  moved = (tmp_path / "photos").rename(tmp_path / "moved")
  photos = [str(moved / os.path.basename(path)) for path in photos]
  PIL.Image.new("RGB", (90, 60), "red").save(photos[3])
  config.use_global_features = False
  with caplog.at_level(logging.INFO, logger="absl"):
    report = _extract(photos, config, out)
  assert report.done == (photos[3],)
  assert "1 photos have changed" in caplog.text
  after = _read_all(out)
  assert after["photo_3.delf"] != before["photo_3.delf"]
  # What the other head has of the former photo would pass for this one's.
  assert "photo_3.delg_global" not in after
  config.use_global_features = True
  assert _extract(photos, config, out).done == (photos[3],)
  assert _extract(photos, config, out).done == ()


def test_a_record_that_was_cut_is_read_and_continued(photos, config, tmp_path):
  _extract(photos[:3], config, tmp_path)
  record = tmp_path / extract.PHOTOS
  lines = record.read_text().splitlines()
  size = os.stat(photos[0]).st_size
  written = {
    path.suffix: path.stat().st_size for path in tmp_path.glob("photo_0.*")
  }
  expected = {"name": "photo_0", "bytes": size, "files": written}
  assert json.loads(lines[0]) == expected
  record.write_text("\n".join(lines)[:-4])
  assert len(_extract(photos[:3], config, tmp_path).skipped) == 3
  _extract(photos, config, tmp_path)
  lines = record.read_text().splitlines()
  assert [json.loads(line)["name"] for line in (*lines[:2], *lines[3:])] == [
    f"photo_{i}" for i in (0, 1, 3, 4, 5)
  ]


def test_finished_images_are_skipped_and_unfinished_done_again(
  photos, config, tmp_path
):
  out = tmp_path / "out"
  _extract(photos, config, out)
  before = _read_all(out)
  (out / "photo_1.delf").unlink()
  cut = out / "photo_2.delg_global"  # As a copy that was interrupted.
  cut.write_bytes(cut.read_bytes()[:-3])
  report = _extract(photos, config, out)
  assert report.done == (photos[1], photos[2])
  assert len(report.skipped) == 4
  assert _features(out) == _features(before)
  # Nothing to do: no extractor is made, which this configuration could not.
  report = extract.extract_to_files(photos, config, out, extractor=object())
  assert report.done == ()
  assert len(report.skipped) == 6


@pytest.mark.parametrize("text", ["[" * 200_000, "5", "{}", '{"local": 5}'])
def test_a_record_that_is_none(photos, config, tmp_path, text):
  _extract(photos[:2], config, tmp_path)
  (tmp_path / extract.RECORD).write_text(text)
  with pytest.raises(
    errors.InputError, match="a record of (what|the settings)"
  ):
    _extract(photos[:2], config, tmp_path)
  with open(tmp_path / extract.PHOTOS, "a") as record:
    record.write(text + "\n")
  assert len(_extract(photos[:2], config, tmp_path, resume=False).done) == 2


def test_another_configuration_is_refused_in_a_used_folder(
  photos, config, tmp_path
):
  _extract(photos[:2], config, tmp_path / "out")
  before = _read_all(tmp_path / "out")
  config.max_image_size = 32
  with pytest.raises(errors.InputError, match="max_image_size: 32"):
    _extract(photos, config, tmp_path / "out")
  assert _read_all(tmp_path / "out") == before
  with pytest.raises(errors.InputError, match=extract.RECORD):
    _extract(photos, config, tmp_path / "out")
  report = _extract(photos, config, tmp_path / "out", resume=False)
  assert len(report.done) == 6
  assert _extract(photos, config, tmp_path / "out").done == ()


def test_a_part_is_not_overwritten_with_other_settings(
  photos, config, tmp_path
):
  _extract(photos[:3], config, tmp_path)
  before = _read_all(tmp_path)
  config.max_image_size = 32
  config.use_global_features = False
  with pytest.raises(errors.InputError, match=r"max_image_size.*photo_2.delf"):
    _extract(photos[:2], config, tmp_path, resume=False)
  assert _read_all(tmp_path) == before
  report = _extract(photos[:3], config, tmp_path, resume=False)
  assert len(report.done) == 3
  # No image has one head of these settings and one of others.
  assert not list(tmp_path.glob("*.delg_global"))


def test_a_part_is_overwritten_with_the_same_settings(photos, config, tmp_path):
  _extract(photos[:3], config, tmp_path)
  before = _read_all(tmp_path)
  config.use_global_features = False
  report = _extract(photos[:2], config, tmp_path, resume=False)
  assert len(report.done) == 2
  assert _features(tmp_path) == _features(before)


def test_each_head_has_a_record_of_its_own(photos, config, tmp_path):
  config.use_global_features = False
  config.delf_local_config.max_feature_num = 5
  _extract(photos[:2], config, tmp_path)
  config.delf_global_config.image_scales_ind.append(0)  # Which is all.
  _extract(photos[:2], config, tmp_path)
  config.use_local_features, config.use_global_features = False, True
  config.delf_local_config.max_feature_num = 7
  config.max_image_size = 32
  assert len(_extract(photos[:2], config, tmp_path).done) == 2
  config.use_local_features = True
  with pytest.raises(errors.InputError, match="local features made"):
    _extract(photos[:2], config, tmp_path)
  config.use_local_features, config.max_image_size = False, 16
  with pytest.raises(errors.InputError, match="global features made"):
    _extract(photos[:2], config, tmp_path)


def test_rotation_is_part_of_the_record(photos, config, tmp_path):
  _extract(photos[:1], config, tmp_path, apply_rotation=True)
  with pytest.raises(errors.InputError, match="apply_rotation True"):
    _extract(photos, config, tmp_path)


def test_a_damaged_record_is_an_error(photos, config, tmp_path):
  _extract(photos[:1], config, tmp_path)
  for text in ("{}", "[]", "no JSON", '{"local": 3}', '{"identity": {}}'):
    (tmp_path / extract.RECORD).write_text(text)
    with pytest.raises(errors.InputError, match="record"):
      _extract(photos, config, tmp_path)
  with pytest.raises(errors.InputError, match=r"photo_0.delf would stay"):
    _extract(photos[1:], config, tmp_path, resume=False)
  assert len(_extract(photos, config, tmp_path, resume=False).done) == 6


def test_a_bad_file_is_reported_and_the_rest_goes_on(photos, config, tmp_path):
  bad = tmp_path / "photos" / "photo_9.jpg"
  bad.write_bytes(b"not an image")
  missing = str(tmp_path / "nowhere.jpg")
  report = _extract(
    [photos[0], str(bad), missing, photos[1]], config, tmp_path / "out"
  )
  assert report.done == (photos[0], photos[1])
  assert [failure.path for failure in report.failed] == [str(bad), missing]
  for failure in report.failed:
    assert "\n" not in str(failure)
    assert str(failure).count(failure.path) == 1
  assert not list((tmp_path / "out").glob("*photo_9*"))
  assert "2 extracted, 0 already there, 2 failed" in report.summary()


def test_strict_ends_at_the_first_bad_file(photos, config, tmp_path):
  images = [photos[0], str(tmp_path / "nowhere.jpg"), photos[1]]
  with pytest.raises(errors.InputError, match="nowhere"):
    _extract(images, config, tmp_path / "out", strict=True)
  assert (tmp_path / "out" / "photo_0.delf").exists()
  assert not (tmp_path / "out" / "photo_1.delf").exists()


@pytest.mark.parametrize("part", ["local", "global"])
def test_nan_is_a_failure(photos, config, tmp_path, part):
  class Nan(PatchExtractor):
    def _extract(self, image):
      found = super()._extract(image)
      if part == "local":
        found.local.descriptors[0, 0] = np.nan
      else:
        found.global_descriptor[0] = np.nan
      return found

  report = _extract(photos[:2], config, tmp_path / "out", extractor=Nan())
  assert len(report.failed) == 2
  assert "NaN" in report.failed[0].reason
  assert not list((tmp_path / "out").iterdir())


def test_out_of_memory_is_a_failure_in_words(photos, config, tmp_path):
  class Full(PatchExtractor):
    def _extract(self, image):
      raise MemoryError

  report = _extract(photos[:1], config, tmp_path, extractor=Full())
  assert "does not fit in memory" in report.failed[0].reason


def test_a_tiny_image_gives_empty_files(config, tmp_path):
  path = tmp_path / "tiny.png"
  PIL.Image.new("RGB", (5, 4)).save(path)
  report = _extract([path], config, tmp_path / "out")
  assert report.done == (str(path),)
  read = feature_io.ReadFromFile(tmp_path / "out" / "tiny.delf")
  assert read[0].shape == (0, 2)
  assert datum_io.ReadFromFile(tmp_path / "out" / "tiny.delg_global").size == 0
  assert _extract([path], config, tmp_path / "out").skipped == (str(path),)


def test_two_images_of_one_output_name_are_refused(photos, config, tmp_path):
  other = tmp_path / "photo_0.jpg"
  with pytest.raises(errors.InputError, match="photo_0"):
    _extract([*photos, str(other)], config, tmp_path / "out")
  assert not (tmp_path / "out").exists()
  # Names keep them apart; a repeated image is done once.
  report = _extract(
    [photos[0], photos[1], photos[0]],
    config,
    tmp_path / "out",
    names=["a/photo", "b/photo", "a/photo"],
  )
  assert len(report.done) == 2
  assert (tmp_path / "out" / "b" / "photo.delf").exists()


@pytest.mark.parametrize("what", ["no images", "no features", "a file", "gs"])
def test_what_cannot_be_done_is_said_at_once(photos, config, tmp_path, what):
  out = tmp_path / "out"
  if what == "no images":
    photos = []
  if what == "no features":
    config.use_local_features = config.use_global_features = False
  if what == "a file":
    out.write_text("")
  if what == "gs":
    out = "gs://bucket/out"
  with pytest.raises(errors.InputError):
    _extract(photos, config, out)


def test_leftovers_of_a_killed_run_are_removed(photos, config, tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  left = out / f".photo_0.{'0' * 32}.delf"
  other = out / f".another.{'0' * 32}.delf"
  left.write_bytes(b"part")
  other.write_bytes(b"part")
  _extract(photos, config, out)
  assert not left.exists()
  assert other.exists()  # Of an image that is not ours to do.


def test_an_interrupt_ends_with_what_was_done(
  photos, config, tmp_path, interrupts
):
  class Interrupted(PatchExtractor):
    def _extract(self, image):
      self.batches.append(1)
      if len(self.batches) == 3:
        os.kill(os.getpid(), signal.SIGINT)
      return super()._extract(image)

  before = set(threading.enumerate())
  report = _extract(photos, config, tmp_path, extractor=Interrupted())
  assert report.interrupted
  assert report.done == tuple(photos[:2])
  assert report.summary().startswith("interrupted")
  assert (tmp_path / "photo_1.delf").exists()
  assert not set(threading.enumerate()) - before
  report = _extract(photos, config, tmp_path)
  assert len(report.skipped) == 2
  assert len(report.done) == 4


def test_the_record_says_what_the_features_are_of(photos, config, tmp_path):
  _extract(photos[:1], config, tmp_path)
  record = json.loads((tmp_path / extract.RECORD).read_text())
  for head in ("local", "global"):
    assert "image_scales: 1.0" in record[head]["settings"]


def test_writing_that_fails_is_an_error(photos, config, tmp_path, monkeypatch):
  write = files.write_bytes

  def full(path, *data):
    if path.name == "photo_2.delf":
      raise OSError(28, "No space left on device", str(path))
    write(path, *data)

  monkeypatch.setattr(files, "write_bytes", full)
  bad = str(tmp_path / "nowhere.jpg")
  with pytest.raises(OSError, match="No space left") as error:
    _extract([bad, *photos], config, tmp_path)
  report = error.value.report
  assert [failure.path for failure in report.failed] == [bad]
  assert set(photos[:2]) <= set(report.done)
  assert photos[2] not in report.done


@pytest.mark.parametrize("what", ["a file above it", "a full disk"])
def test_a_folder_that_cannot_be_written_is_told_before_a_model_is_loaded(
  photos, config, tmp_path, monkeypatch, what
):
  out = tmp_path / "above" / "out"
  if what == "a file above it":
    out.parent.write_text("")
  else:

    def full(dir):
      raise OSError(28, "No space left on device", str(dir / "temporary"))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", full)
  monkeypatch.setattr(extract.extractor, "make_extractor", None)
  monkeypatch.setattr(extract, "model_folder", lambda *_: None)
  with pytest.raises(OSError) as error:
    _extract(photos, config, out, extractor=None)
  assert error.value.filename == str(out)
