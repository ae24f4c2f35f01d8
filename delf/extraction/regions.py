"""Boxes of many photos and features of each box, from photos to files."""

import contextlib
import csv
import dataclasses
import io
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from absl import logging

from delf.base import boxes, concurrency, errors, files, progress
from delf.extraction import detect, engine, extract
from delf.inference import extractor as extractors
from delf.inference import zoo
from delf.protos import delf_config_pb2
from delf.python import utils

# Columns of the mapping: name of a feature file without extension, index of its
# image in the data set, and its box, -1 for the whole image.
_NAME, _IMAGE, _ = _COLUMNS = ("name", "index_image_id", "box_id")
WHOLE = -1

_DIGITS = 18  # Of the largest index_image_id.
# More parallel regions on a CPU gain little, and each takes memory.
_MOST_WORKERS = 8
# Results per worker that may wait for an earlier one, as those of boxes do for
# that of the whole photo, which takes far longer.
_RESULTS_AHEAD = 4


def write(
  path: str | os.PathLike, rows: Iterable[tuple[str, int, int]]
) -> None:
  """Write a mapping of images to feature files atomically.

  Rows are (name, index_image_id, box_id); the box of a whole image is WHOLE.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(_COLUMNS)
  writer.writerows(rows)
  files.write_bytes(path, text.getvalue().encode())


def read(
  path: str | os.PathLike, image_names: Sequence[str]
) -> dict[str, list[str]]:
  """Read the names of each image's feature files, without extension.

  `path` is a CSV file with the header `name,index_image_id,box_id`; ids are
  positions in `image_names`.
  """
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  if not {_NAME, _IMAGE} <= set(header):
    raise errors.InputError(
      f"the CSV file must have the columns {','.join(_COLUMNS)}, not"
      f" {','.join(header)[:80] or 'an empty line'}",
      path=path,
    )
  columns = header.index(_NAME), header.index(_IMAGE)
  mapping: dict[str, list[str]] = {}
  for line, row in rows:
    name, image = (row[i] if i < len(row) else "" for i in columns)
    digits = image.strip()
    is_id = digits.isdecimal() and len(digits) <= _DIGITS
    if not name or not is_id or int(digits) >= len(image_names):
      raise errors.InputError(
        f"line {line} must have a name and an index_image_id from 0 to"
        f" {len(image_names) - 1}, not {name[:80]!r} and {image[:80]!r}",
        path=path,
      )
    mapping.setdefault(image_names[int(digits)], []).append(name)
  return mapping


@dataclasses.dataclass(frozen=True)
class RegionOptions(engine.RunOptions):
  """Options of an extraction of regions."""

  threshold: float = 0.1  # Least score of a box.
  most: int | None = None  # Best boxes of a photo to use; None for all.
  # Regions extracted in parallel on a CPU; None for one per core.
  extract_workers: int | None = None
  extractor: Any = None  # Replaces the extractor of the configuration.
  # Whether to limit each TensorFlow operation of the process to one core
  # (`saved_model.use_one_core_each`).
  one_core_each: bool = False

  def __post_init__(self) -> None:
    detect.check_threshold(self.threshold)

  @property
  def workers_at_once(self) -> int:
    """Number of regions to extract in parallel on a CPU."""
    return self.extract_workers or min(concurrency.core_count(), _MOST_WORKERS)


@dataclasses.dataclass(frozen=True)
class RegionReport(engine.Report):
  """Result of an extraction of regions; images are given by their names."""

  files: tuple[str, ...] = ()  # Regions with features, also of skipped photos.

  _verb: ClassVar[str] = "images extracted"

  @property
  def regions(self) -> int:
    """Number of regions with features, including whole images."""
    return len(self.files)

  def summary(self) -> str:
    """Return one line of text."""
    mean = self.regions / max(1, len(self.done) + len(self.skipped))
    return f"{super().summary()}; {self.regions} regions ({mean:.1f} an image)"


def extract_regions(
  images: Sequence[str | os.PathLike],
  config: delf_config_pb2.DelfConfig,
  detector: Any,
  features_dir: str | os.PathLike,
  boxes_dir: str | os.PathLike,
  mapping_path: str | os.PathLike | None,
  **options: Any,
) -> RegionReport:
  """Detect boxes in photos, and extract features of the photos and the boxes.

  The outputs are `<image>.boxes`; `<image>_0.delf` of the whole image;
  `<image>_1.delf` and so on of the boxes at or over the threshold, in pixels of
  the part; and at the end a mapping of these files, which replaces an existing
  one. The run is resumable, as that of `extract.extract_to_files`.

  The detector is a folder or name, or an object with `detect`; None uses
  existing boxes. The two folders may be the same; `mapping_path`, of a CSV
  file, may be None. Options are fields of RegionOptions.
  """
  chosen = RegionOptions(**options)
  plan = engine.plan(images, chosen.names)
  if mapping_path is not None and os.path.isdir(mapping_path):
    raise errors.InputError("the mapping is a folder", path=mapping_path)
  detector_folder = None
  if detector is not None and not hasattr(detector, "detect"):
    detector_folder = zoo.resolve(detector)
  made_with = detect.describe(detector_folder, chosen.apply_rotation)
  box_folder = detect.BoxFolder(boxes_dir, made_with)
  box_folder.advice = "another folder"
  box_folder.check(plan, overwrite=False)
  model = extract.model_folder(config, chosen)
  made_with = extract.describe(config, model, chosen.apply_rotation)
  folder = extract.FeatureFolder(features_dir, config, files.DELF, made_with)
  folder.check(plan, overwrite=False)
  names = chosen.names or engine.base_names(images)
  outputs = _Outputs(plan, box_folder, folder, (mapping_path, names), chosen)
  todo, report = outputs.todo, RegionReport(skipped=outputs.skipped)
  if not todo:
    outputs.finish()
    return dataclasses.replace(report, **outputs.report_fields())
  folder.prepare()
  extractor = chosen.extractor or _make_extractor(config, chosen)
  if outputs.needs_detector and detector_folder is not None:
    from delf.inference import detector as detectors

    detector = detectors.load(detector_folder, chosen.device)
  device = getattr(extractor, "device", None) or "CPU"
  logging.info("Extracting regions of %d images on %s.", len(todo), device)
  batches = make_batches(extractor, config, device, chosen.workers_at_once)
  run = engine.Run(outputs, report, chosen.say)
  with (
    contextlib.closing(chosen.decode_ahead(todo)) as stream,
    progress.count("extracting regions of images", len(todo)) as bar,
  ):
    results = batches.run(outputs.regions(stream, detector, bar))
    return run.do(results, todo, bar)


class ParallelExtractor:
  """Like engine.BatchExtractor, with threads in place of batches."""

  def __init__(self, extractor: Any, limit: Callable, workers: int):
    self._extractor, self._limit = extractor, limit
    self._workers = max(1, workers)
    self._memory, self._free = threading.Condition(), 1.0

  def run(self, stream: Iterable[engine.Decoded]) -> Iterator[tuple]:
    """Yield (Decoded, result or Exception), in order."""
    return concurrency.map_ahead(
      self._extract, stream, self._workers, _RESULTS_AHEAD * self._workers
    )

  def _extract(self, decoded):
    if decoded.error is not None:
      return decoded, decoded.error
    share = 1 / max(1, self._limit(decoded.image.shape[:2]))
    with self._memory:
      # The free share of the memory is subject to rounding.
      self._memory.wait_for(lambda: share <= self._free + 1e-9)
      self._free -= share
    try:
      return decoded, self._extractor.extract(decoded.image, *decoded.factor)
    except Exception as error:  # Any error concerns this image alone.
      return decoded, error
    finally:
      with self._memory:
        self._free += share
        self._memory.notify_all()


def make_batches(
  extractor: Any,
  config: delf_config_pb2.DelfConfig,
  device: str,
  workers: int,
) -> engine.BatchExtractor | ParallelExtractor:
  """Return an extractor of a stream of regions that suits a device.

  A GPU gets batches of images of one size, a CPU parallel images of any size.
  """
  limit = engine.memory_limit(config, "GPU")
  if "GPU" in device.upper():
    return engine.BatchExtractor(extractor, limit)
  return ParallelExtractor(extractor, limit, workers)


def _make_extractor(config, options):
  uses_all_cores = options.workers_at_once >= concurrency.core_count()
  if options.one_core_each and uses_all_cores:
    from delf.inference import saved_model  # Imports TensorFlow.

    saved_model.use_one_core_each(options.device)
  return extractors.make_extractor(config, device=options.device)


class _Outputs:
  """The regions of all photos, both finished and missing ones."""

  wants_images = False

  def __init__(self, plan, box_folder, folder, mapping, options):
    self._boxes, self._folder, self._options = box_folder, folder, options
    self._mapping, self._names = mapping
    # Regions of each photo whose boxes are known.
    self._known = {
      job.name: parts
      for job in plan
      if (parts := self._known_regions(job)) is not None
    }
    known = [part for parts in self._known.values() for part in parts]
    missing, done = folder.divide(known)
    self._missing = {part.name for part in missing}
    # Numbers of the finished regions of each image.
    self._finished: dict[str, set[int]] = {name: set() for name in self._known}
    for part in done:
      self._note(part)
    whole = {
      name
      for name, parts in self._known.items()
      if self._missing.isdisjoint(part.name for part in parts)
    }
    self.todo = [job for job in plan if job.name not in whole]
    self.skipped = tuple(job.name for job in plan if job.name in whole)
    self.needs_detector = len(self._known) < len(plan)
    self._done: dict[str, None] = {}
    self._has_boxes_claimed = False

  def _known_regions(self, job):
    # Errors are reported when the photo is processed.
    with contextlib.suppress(errors.InputError, OSError):
      detections = self._boxes.read(job)
      if detections is not None:
        size = utils.image_size(job.path, self._options.apply_rotation)
        return self._regions_of(job, detections, size)
    return None

  def _regions_of(self, job, detections, size):
    """Returns jobs of the whole photo and of its boxes, in their order."""
    chosen = detections.at_least(self._options.threshold)
    if self._options.most is not None:
      best = np.argsort(-chosen.scores, kind="stable")[: self._options.most]
      chosen = chosen.take(np.sort(best))
    pixels = boxes.to_crops(chosen.boxes, *size)[:, [1, 0, 3, 2]].tolist()
    crops = [None, *(engine.Crop(tuple(box)) for box in pixels)]
    return [
      dataclasses.replace(
        job,
        name=engine.region_name(job.name, number),
        crop=crop,
        label=f"region {number}" if number else "",
      )
      for number, crop in enumerate(crops)
    ]

  def _note(self, part):
    image, _, number = part.name.rpartition("_")
    self._finished.setdefault(image, set()).add(int(number))
    return image

  def regions(self, stream, detector, bar):
    """Yields the missing regions of decoded photos, as engine.Decoded."""
    for decoded in stream:
      job = decoded.job
      parts = decoded.error or self._known.get(job.name)
      if parts is None:
        parts = self._new_regions(decoded, detector)
      if isinstance(parts, Exception):
        yield engine.Decoded(job, error=parts)
      else:
        for part in parts:
          if part.name in self._missing:
            yield engine.cut(part, decoded.image)
      bar.update(1)

  def _new_regions(self, decoded, detector):
    """Returns the regions of a photo without known boxes, or an Exception."""
    job, is_new = decoded.job, False
    try:
      detections = self._boxes.read(job)
      if detections is None:
        if detector is None:
          raise errors.InputError("the photo has no boxes: use a detector")
        detections, is_new = detector.detect(decoded.image[np.newaxis])[0], True
      parts = self._regions_of(job, detections, decoded.image.shape[:2])
    except Exception as error:  # Any error concerns this photo alone.
      return error
    if is_new:
      if not self._has_boxes_claimed:
        self._remove_mapping()
        self._boxes.claim(self.todo, overwrite=False)
        self._has_boxes_claimed = True
      self._boxes.write(job, detections)
    self._known[job.name] = parts
    self._missing |= {part.name for part in parts}
    return parts

  def claim(self, todo, overwrite):
    self._remove_mapping()
    parts = [part for parts in self._known.values() for part in parts]
    self._folder.claim(parts, overwrite)

  def write(self, part, features):
    self._folder.write(part, features)
    self._done[self._note(part)] = None

  def finish(self):
    """Removes files without a box, and writes the mapping."""
    for name, parts in self._known.items():
      self._folder.photos.remove_regions(name, len(parts))
    if self._mapping is not None and any(self._finished.values()):
      rows = [
        (engine.region_name(image, number), place, number + WHOLE)
        for place, image in enumerate(self._names)
        for number in sorted(self._finished.get(image, ()))
      ]
      write(self._mapping, rows)

  def report_fields(self):
    regions = tuple(
      engine.region_name(name, number)
      for name, numbers in self._finished.items()
      for number in sorted(numbers)
    )
    return {"done": tuple(self._done), "files": regions}

  def close(self):
    self._folder.close()
    self._boxes.close()

  def _remove_mapping(self):
    if self._mapping is not None:
      pathlib.Path(self._mapping).unlink(missing_ok=True)
