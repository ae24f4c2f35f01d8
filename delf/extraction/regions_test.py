import json

import numpy as np
import PIL.Image
import pytest

from delf.base import boxes, errors, files
from delf.extraction import engine, extract, regions
from delf.formats import features
from delf.protos import delf_config_pb2
from delf.python import box_io, feature_io

_SIZE = (90, 120)


class _Mean:
  """Its one feature is the size and the mean colour of what it is given."""

  device = "CPU"

  def __init__(self, wrong=()):
    self.seen, self._wrong = [], wrong

  def extract(self, image, resize_factor=1.0):
    assert resize_factor == 1.0
    self.seen.append(image.shape[:2])
    if image.shape[:2] in self._wrong:
      raise ValueError("no such size")
    return features.ImageFeatures(
      features.LocalFeatures(
        locations=np.array([image.shape[:2]], np.float32),
        scales=np.ones([1], np.float32),
        descriptors=np.array([image.mean(axis=(0, 1))], np.float32),
        attention=np.ones([1], np.float32),
      )
    )

  def extract_batch(self, images, resize_factor=1.0):
    return [self.extract(image, resize_factor) for image in images]


class _Detector:
  """Finds the same boxes in each image, and counts."""

  def __init__(self, boxes, scores):
    self._found = boxes, scores, np.ones([len(scores)])
    self.images = 0

  def detect(self, images):
    self.images += len(images)
    return [boxes.make_detections(*self._found) for _ in images]


_BOXES = [[0, 0, 0.5, 0.5], [0.111, 0.25, 0.999, 0.75], [0.2, 0.2, 0.4, 0.4]]
_SCORES = [0.9, 0.1, 0.05]


@pytest.fixture
def photos(tmp_path):
  generator = np.random.default_rng(5)
  paths = []
  for name in "ab":
    pixels = generator.integers(0, 256, [*_SIZE, 3], dtype=np.uint8)
    paths.append(str(tmp_path / f"{name}.png"))
    PIL.Image.fromarray(pixels).save(paths[-1])
  return paths


def _run(photos, folder, detector=None, extractor=None, **options):
  config = delf_config_pb2.DelfConfig(
    image_scales=[1.0], use_local_features=True
  )
  return regions.extract_regions(
    photos,
    config,
    detector or _Detector(_BOXES, _SCORES),
    folder / "features",
    folder / "boxes",
    folder / "mapping.csv",
    extractor=extractor or _Mean(),
    **options,
  )


def _files(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def _features(folder, name):
  return feature_io.ReadFromFile(str(folder / "features" / f"{name}.delf"))


def test_whole_image_and_boxes_over_the_threshold(photos, tmp_path):
  out = tmp_path / "out"
  report = _run(photos, out)
  assert report.done == ("a", "b") and report.regions == 6
  assert not report.failed and report.exit_status == 0
  # All boxes, those under the threshold too.
  boxes, scores, _ = box_io.ReadFromFile(out / "boxes" / "a.boxes")
  np.testing.assert_array_equal(boxes, np.float32(_BOXES))
  np.testing.assert_array_equal(scores, np.float32(_SCORES))
  pixels = np.asarray(PIL.Image.open(photos[0]))
  # Floor of the smaller corner, ceiling of the larger one.
  parts = [pixels, pixels[0:45, 0:60], pixels[9:90, 30:90]]
  for number, part in enumerate(parts):
    locations, _, descriptors, _, _ = _features(out, f"a_{number}")
    assert tuple(locations[0]) == part.shape[:2]
    np.testing.assert_allclose(descriptors[0], part.mean((0, 1)), rtol=1e-6)
  assert (out / "mapping.csv").read_text().splitlines() == [
    "name,index_image_id,box_id",
    *("a_0,0,-1", "a_1,0,0", "a_2,0,1"),
    *("b_0,1,-1", "b_1,1,0", "b_2,1,1"),
  ]
  assert regions.read(out / "mapping.csv", ["a", "b"])["b"] == [
    "b_0", "b_1", "b_2",
  ]  # fmt: skip
  assert not (out / "features" / "a_3.delf").exists()


def test_a_photo_is_decoded_once(photos, tmp_path, monkeypatch):
  decoded = []
  load = engine.utils.RgbLoader

  def counted(path, **options):
    decoded.append(path)
    return load(path, **options)

  monkeypatch.setattr(engine.utils, "RgbLoader", counted)
  _run(photos, tmp_path / "out")
  assert sorted(decoded) == photos


@pytest.mark.parametrize("workers", [1, 3])
def test_results_do_not_depend_on_the_workers(photos, tmp_path, workers):
  _run(photos, tmp_path / "plain", extract_workers=1)
  _run(photos, tmp_path / "out", extract_workers=workers)
  assert _files(tmp_path / "out") == _files(tmp_path / "plain")


def test_what_is_there_is_not_done_again(photos, tmp_path):
  out = tmp_path / "out"
  _run(photos, out)
  before = _files(out)
  detector, extractor = _Detector(_BOXES, _SCORES), _Mean()
  report = _run(photos, out, detector, extractor)
  assert report.skipped == ("a", "b") and report.regions == 6
  assert not detector.images and not extractor.seen
  (out / "features" / "b_1.delf").unlink()
  (out / "mapping.csv").unlink()
  report = _run(photos, out, detector, extractor)
  assert report.done == ("b",) and extractor.seen == [(45, 60)]
  assert not detector.images
  after = _files(out)
  for content in (before, after):
    record = content.pop(f"features/{extract.PHOTOS}").splitlines()
    assert len({json.loads(line)["name"] for line in record}) == 6
  assert after == before


def test_another_threshold_leaves_no_other_regions(photos, tmp_path):
  out = tmp_path / "out"
  _run(photos, out, threshold=0.0)
  assert (out / "features" / "a_3.delf").exists()
  detector, extractor = _Detector(_BOXES, _SCORES), _Mean()
  report = _run(photos, out, detector, extractor, threshold=0.5)
  assert report.regions == 4 and not detector.images and not extractor.seen
  named = {
    f"{line.split(',')[0]}.delf"
    for line in (out / "mapping.csv").read_text().splitlines()[1:]
  }
  assert named == {p.name for p in (out / "features").glob("*.delf")}


def test_the_best_boxes_stay_in_the_order_of_the_detector(photos, tmp_path):
  detector = _Detector(_BOXES, [0.1, 0.3, 0.2])
  report = _run(photos[:1], tmp_path / "out", detector, most=2)
  assert report.regions == 3
  # 0.4 as float32 is a little over 0.4.
  assert tuple(_features(tmp_path / "out", "a_1")[0][0]) == (81, 60)
  assert tuple(_features(tmp_path / "out", "a_2")[0][0]) == (19, 25)


def test_a_photo_that_changed_is_done_again(photos, tmp_path):
  out = tmp_path / "out"
  _run(photos, out)
  PIL.Image.new("RGB", (40, 30)).save(photos[0])
  detector = _Detector(_BOXES[:1], _SCORES[:1])
  report = _run(photos, out, detector)
  assert report.done == ("a",) and detector.images == 1
  assert tuple(_features(out, "a_1")[0][0]) == (15, 20)
  assert not (out / "features" / "a_2.delf").exists()
  assert "a_2" not in (out / "mapping.csv").read_text()


def test_photos_and_regions_that_fail_are_told_and_left_out(photos, tmp_path):
  out = tmp_path / "out"
  with open(photos[1], "wb") as file:
    file.write(b"no image")
  report = _run(photos, out, extractor=_Mean(wrong=[(45, 60)]))
  assert report.exit_status == 1 and len(report.failed) == 2
  words = sorted(map(str, report.failed))
  assert "region 1: ValueError: no such size" in words[0]
  assert words[1].startswith(photos[1])
  rows = (out / "mapping.csv").read_text().splitlines()[1:]
  assert rows == ["a_0,0,-1", "a_2,0,1"]


def test_no_boxes_and_boxes_of_nothing(photos, tmp_path):
  report = _run(photos, tmp_path / "none", _Detector([], []))
  assert report.regions == 2 and not report.failed
  assert (tmp_path / "none" / "boxes" / "a.boxes").read_bytes() == b""
  padded = _Detector([*_BOXES[:1], [0, 0, 0, 0]], [0.9, 0.0])
  report = _run(photos, tmp_path / "padded", padded, threshold=0.0)
  assert report.regions == 4


def test_boxes_that_are_there_need_no_detector(photos, tmp_path):
  out = tmp_path / "out"
  for name in "ab":
    box_io.WriteToFile(
      out / "boxes" / f"{name}.boxes", _BOXES, _SCORES, [1, 1, 1]
    )
  detector = _Detector([], [])
  assert _run(photos, out, detector).regions == 6
  assert not detector.images


def test_pixels_as_boxes_fail_each_photo(photos, tmp_path):
  out = tmp_path / "out"
  report = _run(photos, out, _Detector([[0, 0, 45, 60]], [0.9]))
  assert len(report.failed) == 2 and "not pixels" in str(report.failed[0])
  assert not (out / "mapping.csv").exists()


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_a_threshold_is_a_number(photos, tmp_path, threshold):
  with pytest.raises(errors.InputError, match="finite number, not"):
    _run(photos, tmp_path / "out", threshold=threshold)


def test_a_full_disk_ends_the_run_and_is_gone_on_from(
  photos, tmp_path, monkeypatch
):
  out = tmp_path / "out"
  write = extract.FeatureFolder.write

  def full(self, job, found):
    if job.name == "b_1":
      raise OSError(28, "No space left on device", "b_1.delf")
    write(self, job, found)

  monkeypatch.setattr(extract.FeatureFolder, "write", full)
  with pytest.raises(OSError, match="No space") as error:
    _run(photos, out)
  assert error.value.report.done == ("a", "b")
  assert not (out / "mapping.csv").exists()
  monkeypatch.undo()
  detector = _Detector(_BOXES, _SCORES)
  assert _run(photos, out, detector).regions == 6
  assert not detector.images


class _Killed(BaseException):
  """What no code catches, as a signal that ends the program."""


class _Killer:
  """Ends a run before, and in its turn after, each of its writes."""

  def __init__(self, monkeypatch, moment):
    self._moment, self.number = moment, 0
    for owner, name in (
      (files, "write_bytes"),
      (extract.PhotoRecord, "add"),
    ):
      monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

  def _wrap(self, write):
    def wrapped(*args):
      self._step()
      write(*args)
      self._step()

    return wrapped

  def _step(self):
    self.number += 1
    if self.number == self._moment:
      raise _Killed


def _but_records(folder):
  """Returns {file: content}, and the lines of both records."""
  content, lines = _files(folder), set()
  for part in ("boxes", "features"):
    lines |= set(content.pop(f"{part}/{extract.PHOTOS}", b"").splitlines())
  return content, lines


def test_a_run_that_ends_at_any_moment_is_gone_on_from(
  photos, tmp_path, monkeypatch
):
  _run(photos, tmp_path / "whole", extract_workers=1)
  whole, recorded = _but_records(tmp_path / "whole")
  with monkeypatch.context() as patch:
    counter = _Killer(patch, None)
    _run(photos, tmp_path / "counted", extract_workers=1)
  # What the features are of, eight files, their lines, and the mapping.
  assert counter.number == 2 * (1 + 8 + 8 + 1)
  for moment in range(1, counter.number + 1):
    out = tmp_path / f"{moment}"
    with monkeypatch.context() as patch, pytest.raises(_Killed):
      _Killer(patch, moment)
      _run(photos, out, extract_workers=1)
    there = {p: p.stat().st_mtime_ns for p in out.rglob("*.delf")}
    mapped = (out / "mapping.csv").exists()
    assert not mapped or moment == counter.number
    _run(photos, out, extract_workers=1)
    content, lines = _but_records(out)
    assert content == whole, moment
    assert lines <= recorded  # A file that has no line yet is kept as it is.
    assert {p: p.stat().st_mtime_ns for p in there} == there


_NAMES = ["a", "b", "c"]
_HEADER = "name,index_image_id,box_id\n"


def _read(tmp_path, text):
  path = tmp_path / "mapping.csv"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return regions.read(path, _NAMES)


def test_files_of_each_image_are_in_order(tmp_path):
  text = _HEADER + "b_0,1,-1\na_0,0,-1\nb_1,1,0\nb_2,1,1\n"
  assert _read(tmp_path, text) == {"b": ["b_0", "b_1", "b_2"], "a": ["a_0"]}
  assert _read(tmp_path, "\ufeff" + _HEADER.replace("\n", "\r\n")) == {}


@pytest.mark.parametrize(
  "text, words",
  [
    ("", "columns name,index_image_id,box_id"),
    ("name,box_id\na,0\n", "name,box_id"),
    (_HEADER + "a,3,-1\n", "line 2 .*from 0 to 2.*'3'"),
    (_HEADER + "a,0,-1\nb,-1,0\n", "line 3 .*'-1'"),
    (_HEADER + "a,x,-1\n", "'x'"),
    (_HEADER + f"a,{'9' * 5000},-1\n", "line 2"),
    (_HEADER + "a\n", "line 2"),
    (_HEADER + ",1,2\n", "''"),
    (b"\xff\xfe\0\0", "binary"),
    (_HEADER + '"' + "a" * 2**24, "CSV"),
  ],
)
def test_other_files_are_refused(text, words, tmp_path):
  with pytest.raises(errors.InputError, match=words):
    _read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere.csv"):
    regions.read(tmp_path / "nowhere.csv", _NAMES)
