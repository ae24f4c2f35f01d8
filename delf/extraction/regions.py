"""Boxes of many photos, and features of each box, from photos to files."""

import contextlib
import csv
import dataclasses
import io
import math
import os
import time
from collections.abc import Sequence

import numpy as np
from absl import logging

from delf.base import boxes, concurrency, errors, files, progress
from delf.extraction import detect, engine, jobs, output_folder
from delf.python import utils

# Columns of the mapping: name of a feature file without extension, index of its
# image in the data set, and its box, -1 for the whole image.
NAME, IMAGE, BOX = COLUMNS = ("name", "index_image_id", "box_id")

# Box of the whole image.
WHOLE = -1

# Of an index_image_id.
_DIGITS = 18


def write(path, rows):
  """Writes a mapping, whole or not at all.

  Args:
    path: Path of the CSV file to be.
    rows: Iterable of (name of a feature file without extension, index of its
      image in the data set, box: WHOLE, or its place among the image's
      regions).

  Raises:
    OSError: If it cannot be written.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(COLUMNS)
  writer.writerows(rows)
  files.write_bytes(path, text.getvalue().encode())


def read(path, image_names):
  """Reads a mapping of index images to feature files.

  Args:
    path: Path of a CSV file with the header `name,index_image_id,box_id`.
    image_names: list of str, the index images in the order of their ids.

  Returns:
    dict of image name to the list of str names of its feature files, without
    extension, in the order of the file.

  Raises:
    FileNotFoundError: If there is no such file.
    InputError: If it is no such file, or has an image id that cannot be.
  """
  rows = files.read_csv(path, header=True)
  _, header = next(rows)
  if not {NAME, IMAGE} <= set(header):
    raise errors.InputError(
      f"a CSV file with the columns {','.join(COLUMNS)}",
      f"{','.join(header)[:80] or 'none'}",
      path,
    )
  places = header.index(NAME), header.index(IMAGE)
  found = {}
  for line, row in rows:
    name, image = (row[i] if i < len(row) else "" for i in places)
    if not name or not _is_id(image, len(image_names)):
      raise errors.InputError(
        f"a name and an index_image_id from 0 to {len(image_names) - 1}",
        f"{name[:80]!r} and {image[:80]!r} in line {line}",
        path,
      )
    found.setdefault(image_names[int(image)], []).append(name)
  return found


def _is_id(text, number):
  digits = text.strip()
  is_short = len(digits) <= _DIGITS
  return is_short and digits.isdecimal() and int(digits) < number


@dataclasses.dataclass(frozen=True)
class Choice:
  """Which boxes of a photo are regions.

  Attributes:
    threshold: The least score.
    most: The most boxes, those of the highest scores; None for all.
    apply_rotation: Whether photos are turned as their EXIF orientation says.
  """

  threshold: float
  most: int | None = None
  apply_rotation: bool = False


def name_region_plan(image, number):
  """Returns the name of the feature file of a region, without extension.

  Args:
    image: Name of the image.
    number: 0 for the whole image, else the region's place from 1.
  """
  return f"{image}_{number}"


def of_detections(job, found, size, choice):
  """Returns the regions of a photo as jobs: the whole image, then its boxes.

  Args:
    job: jobs.Job of the photo.
    found: detections.Detections.
    size: (height, width) of the photo in pixels.
    choice: Choice.

  Returns:
    list of jobs.Job, the first of them without a crop, the others in the order
    of the detector.
  """
  found = found.at_least(choice.threshold)
  if choice.most is not None:
    best = np.argsort(-found.scores, kind="stable")[: choice.most]
    found = found.take(np.sort(best))
  pixels = boxes.to_crops(found.boxes, *size)[:, [1, 0, 3, 2]].tolist()
  crops = [None, *(jobs.Crop(tuple(box)) for box in pixels)]
  return [
    jobs.Job(job.path, name_region_plan(job.name, number), job.size, crop)
    for number, crop in enumerate(crops)
  ]


def known_region_plan(job, folder, choice):
  """Returns the regions of a photo whose boxes are there, or None.

  Args:
    job: jobs.Job of the photo.
    folder: box_folder.BoxFolder.
    choice: Choice.

  Returns:
    list of jobs.Job; None where there are no boxes, or something is wrong with
    them or the photo, which is then seen when it is worked on.
  """
  try:
    found = folder.read(job)
    if found is None:
      return None
    size = utils.image_size(job.path, choice.apply_rotation)
  except (errors.InputError, OSError):
    return None
  return of_detections(job, found, size, choice)


def mapping_rows(names, there):
  """Returns the rows of the mapping of images to the files of their regions.

  Args:
    names: Names of all images, in the order of their ids.
    there: dict of image name to the numbers of its regions that have files.

  Returns:
    list of (name, image id, box id), as `region_mapping.write` takes them.
  """
  return [
    (name_region_plan(image, number), place, number + WHOLE)
    for place, image in enumerate(names)
    for number in sorted(there.get(image, ()))
  ]


@dataclasses.dataclass(frozen=True)
class RegionReport:
  """What became of each photo.

  Attributes:
    done: Names of photos of which something was extracted.
    skipped: Names of photos all of whose files were there.
    failed: extract_report.Failure of each photo, or region, that gave none.
    files: Names of all regions that have features, whole images among them, of
      photos that were skipped too.
    seconds: Wall-clock time, without loading models.
    interrupted: Whether the user ended the work before its end.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[engine.Failure, ...] = ()
  files: tuple[str, ...] = ()
  seconds: float = 0.0
  interrupted: bool = False

  @property
  def regions(self):
    """Number of regions that have features, whole images among them."""
    return len(self.files)

  def summary(self):
    """Returns one line for people."""
    state = "interrupted: " if self.interrupted else ""
    images = max(1, len(self.done) + len(self.skipped))
    return (
      f"{state}{len(self.done)} images extracted, {len(self.skipped)} already"
      f" there, {len(self.failed)} failed in {self.seconds:.1f} s;"
      f" {self.regions} regions ({self.regions / images:.1f} an image)"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.interrupted:
      return errors.INTERRUPTED
    return 1 if self.failed else 0


class Run:
  """What is to be done, and doing it.

  Attributes:
    todo: list of jobs.Job of photos.
    needs_detector: Whether there are photos without boxes.
  """

  def __init__(self, plan, outputs, choice, names):
    """Looks what is there.

    Args:
      plan: list of jobs.Job of all photos.
      outputs: box_folder.BoxFolder, output_folder.OutputFolder and the path of
        the mapping, or None.
      choice: region_plan.Choice.
      names: Name of each image of the data set, in order.
    """
    self._boxes, self._folder, self._mapping = outputs
    self._choice, self._names = choice, names
    self._plan = plan
    known = {job.name: known_region_plan(job, *self._how) for job in plan}
    self._known = {name: found for name, found in known.items() if found}
    parts = [part for found in self._known.values() for part in found]
    missing, done = self._folder.divide(parts)
    self._missing = {part.name for part in missing}
    # Of each image the numbers of regions that have files.
    self._there = {name: set() for name in self._known}
    self._of_part = {}
    for name, found in self._known.items():
      self._of_part |= {p.name: (name, i) for i, p in enumerate(found)}
    for part in done:
      self._note(part)
    self.todo = [job for job in plan if not self._is_done(job)]
    self.needs_detector = len(self._known) < len(plan)
    waiting = {job.name for job in self.todo}
    self._skipped = [job.name for job in plan if job.name not in waiting]
    self._done, self._failed = {}, []
    self._claimed = self._boxes_claimed = False
    self._start = time.perf_counter()

  @property
  def _how(self):
    return self._boxes, self._choice

  def _is_done(self, job):
    found = self._known.get(job.name)
    return found is not None and not any(p.name in self._missing for p in found)

  def _note(self, part):
    name, number = self._of_part[part.name]
    self._there.setdefault(name, set()).add(number)

  def do(self, extractor, detector, config, options):
    """Extracts and writes.

    Args:
      extractor: Object with `extract(image)` and `extract_batch(images)`.
      detector: Object with `detect(images)`, or None where all have boxes.
      config: delf_config_pb2.DelfConfig.
      options: extract_regions.RegionOptions.

    Returns:
      RegionReport.

    Raises:
      OSError: If files cannot be written; has what was done as `report`.
    """
    self._detector = detector
    device = getattr(extractor, "device", None) or "CPU"
    logging.info(
      "Extracting regions of %d images on %s.", len(self.todo), device
    )
    many = engine.make(extractor, config, device, options.extract_workers)
    self._start = time.perf_counter()
    try:
      with contextlib.closing(self._folder), contextlib.closing(self._boxes):
        self._loop(many, options)
      return self.finish()
    except KeyboardInterrupt:
      return self._report(interrupted=True)
    except OSError as error:
      error.report = self._report()
      raise

  def finish(self):
    """Removes what no box is for, writes the mapping; returns the report."""
    for name, found in self._known.items():
      self._folder.remove_after(
        lambda number, name=name: name_region_plan(name, number), len(found)
      )
    if self._mapping is not None and any(self._there.values()):
      rows = mapping_rows(self._names, self._there)
      write(self._mapping, rows)
    return self._report()

  def _report(self, interrupted=False):
    return RegionReport(
      done=tuple(self._done),
      skipped=tuple(self._skipped),
      failed=tuple(self._failed),
      files=tuple(
        name_region_plan(name, number)
        for name, numbers in self._there.items()
        for number in sorted(numbers)
      ),
      seconds=time.perf_counter() - self._start,
      interrupted=interrupted,
    )

  def _loop(self, many, options):
    stream = engine.decode_ahead(self.todo, self._load, options.workers)
    bar = progress.count("extracting regions of images", len(self.todo))
    parts = self._parts(stream, bar)
    results = many.run(parts)
    try:
      for part, features in results:
        problem = engine.find(part.job.path, features)
        if problem:
          self._fail(part.job, problem)
          bar.set_postfix_str(f"{len(self._failed)} failed")
          continue
        self._claim()
        self._folder.write(part.job, features)
        self._note(part.job)
        self._done[self._of_part[part.job.name][0]] = None
    finally:
      results.close()
      parts.close()
      stream.close()
      bar.close()

  def _parts(self, stream, bar):
    """Yields a prefetch.Decoded of each region that is missing."""
    for decoded in stream:
      problem = decoded.error
      if problem is None:
        try:
          missing = self._missing_of(decoded)
        except errors.InputError as error:
          problem = error
      if problem is not None:
        yield engine.Decoded(decoded.job, error=problem)
      else:
        for part in missing:
          yield _cut(part, decoded.image)
      bar.update(1)

  def _missing_of(self, decoded):
    """Returns the regions of a photo that have no files; detects if need be."""
    job, size = decoded.job, decoded.image.shape[:2]
    if job.name in self._known:
      return [p for p in self._known[job.name] if p.name in self._missing]
    found = self._boxes.read(job)
    if found is None:
      found = self._detect(decoded)
      self._claim_boxes()
      self._boxes.write(job, found)
    parts = of_detections(job, found, size, self._choice)
    self._known[job.name] = parts
    self._of_part |= {p.name: (job.name, i) for i, p in enumerate(parts)}
    return parts

  def _detect(self, decoded):
    """Returns the detections.Detections of a photo."""
    if self._detector is None:
      raise errors.InputError("boxes of each photo, or a detector", "neither")
    try:
      return self._detector.detect(decoded.image[np.newaxis])[0]
    except errors.InputError:
      raise
    except Exception as error:  # Whatever a model raises is about this photo.
      reason = engine.find(decoded.job.path, error)
      raise errors.InputError("a photo to detect in", reason) from None

  def _claim_boxes(self):
    if not self._boxes_claimed:
      self._remove_mapping()
      self._boxes.claim(self.todo)
      self._boxes_claimed = True

  def _claim(self):
    if not self._claimed:
      self._remove_mapping()
      parts = [part for found in self._known.values() for part in found]
      self._folder.claim(parts, overwrite=False)
      self._claimed = True

  def _remove_mapping(self):
    if self._mapping is not None:
      with contextlib.suppress(FileNotFoundError):
        os.unlink(self._mapping)

  def _fail(self, job, problem):
    where = self._of_part.get(job.name)
    words = f"region {where[1]}: {problem}" if where and where[1] else problem
    logging.info("Failed: %s: %s", job.path, words)
    self._failed.append(engine.Failure(job.path, words))

  def _load(self, path):
    return utils.RgbLoader(path, apply_rotation=self._choice.apply_rotation)


def _cut(part, image):
  """Returns the prefetch.Decoded of a region of a photo [H, W, 3]."""
  if part.crop is None:
    return engine.Decoded(part, image=image)
  return engine.Decoded(part, image=part.crop.cut(image)[0])


@dataclasses.dataclass(frozen=True)
class RegionOptions:
  """How to extract; the configuration says what.

  Attributes:
    threshold: The least score of a box that is a region.
    most: The most regions of a photo beside the whole of it, those of the
      highest scores; None for all over the threshold.
    names: Name of each image, without extension and relative to the output
      folders, or None for their base names.
    workers: Threads that decode.
    extract_workers: Regions that a CPU extracts at once, or None: one per core.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.
    apply_rotation: Whether photos are turned as their EXIF orientation says.
    extractor: Extractor to use in place of one made from the configuration.
    one_core_each: Whether operations of TensorFlow are to run on one core each,
      a region per core; for programs that do nothing else with TensorFlow, as
      it is for the whole process (`devices.use_one_core_each`).
  """

  threshold: float = 0.1
  most: int | None = None
  names: Sequence[str] | None = None
  workers: int = 1
  extract_workers: int | None = None
  device: str | None = None
  apply_rotation: bool = False
  extractor: object = None
  one_core_each: bool = False

  def __post_init__(self):
    if not math.isfinite(self.threshold):
      raise errors.InputError(
        "a finite threshold of scores", f"{self.threshold}"
      )


def extract_regions(
  images, config, detector, features_dir, boxes_dir, mapping_path, **options
):
  """Finds boxes in photos, and extracts features of the photos and the boxes.

  Written are `<image>.boxes` with all boxes, `<image>_0.delf` of the whole
  image, `<image>_1.delf` and so on of the boxes at or over the threshold, in
  pixels of the part, and at the end the mapping that lists these files. A photo
  is decoded once. One that fails is reported, and the others go on.

  A run that was ended at any moment can be repeated: it does what is missing.
  A mapping that is there is that of a whole run: it is removed before anything
  is changed.

  Args:
    images: Paths of photos.
    config: delf_config_pb2.DelfConfig.
    detector: Folder or name of a detector, or an object with `detect`; None for
      boxes that are there.
    features_dir: Local folder, made if need be.
    boxes_dir: Local folder, made if need be; may be the same.
    mapping_path: Path of the CSV file, or None for none.
    **options: Fields of RegionOptions.

  Returns:
    region_report.RegionReport. An interrupt by the user (SIGINT) also ends in
    one.

  Raises:
    InputError: If nothing can be done: no images, two for one name, a model or
      detector that does not work, folders of other features or boxes.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, if it was begun.
  """
  options = RegionOptions(**options)
  plan = jobs.plan(images, options.names)
  if mapping_path is not None and os.path.isdir(mapping_path):
    raise errors.InputError("a file or a new name", "a folder", mapping_path)
  boxes = detect.BoxFolder(
    boxes_dir, _folder_of(detector), options.apply_rotation
  )
  folder = output_folder.OutputFolder(
    features_dir, config, files.DELF, _made_with(config, options)
  )
  folder.check([], overwrite=False)
  run = Run(
    plan,
    (boxes, folder, mapping_path),
    Choice(options.threshold, options.most, options.apply_rotation),
    _all_names(images, options.names),
  )
  if run.todo:
    folder.prepare()
    return run.do(
      options.extractor or _make_extractor(config, options),
      _load_detector(detector, options) if run.needs_detector else None,
      config,
      options,
    )
  return run.finish()


def extract_and_say(*args, say, **options):
  """Does `extract_regions` for a program; what failed is said in any case.

  Args:
    *args: As of `extract_regions`.
    say: Function of a line: called for each photo that failed, also before an
      error, as of a full disk.
    **options: As of `extract_regions`.

  Returns:
    region_report.RegionReport.
  """
  return engine.say_failures(lambda: extract_regions(*args, **options), say)


def _all_names(images, names):
  """Returns the name of each image, those that are repeated too."""
  if names is not None:
    return list(names)
  return [os.path.splitext(os.path.basename(path))[0] for path in images]


def _folder_of(detector):
  if detector is None or hasattr(detector, "detect"):
    return None
  from delf.inference import zoo

  return zoo.resolve(detector)


def _made_with(config, options):
  from delf.inference import zoo

  folder = None
  if options.extractor is None or config.model_path:
    folder = zoo.resolve(config.model_path)
  return output_folder.describe(config, folder, options.apply_rotation)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.inference import extractor, saved_model

  workers = engine.number_of_workers(options.extract_workers)
  if options.one_core_each and workers >= concurrency.core_count():
    saved_model.use_one_core_each(options.device)
  return extractor.make_extractor(config, device=options.device)


def _load_detector(detector, options):
  if detector is None:
    return None
  if hasattr(detector, "detect"):
    return detector
  from delf.inference import detector as detectors

  return detectors.load(_folder_of(detector), options.device)
