"""One pass over photos whose boxes, or features of boxes, are missing."""

import contextlib
import os
import time

import numpy as np
from absl import logging

from delf.python import errors, progress, utils
from delf.python.pipelines import (
  extract_report,
  prefetch,
  problems,
  region_mapping,
  region_plan,
  region_report,
  side_by_side,
)


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
    known = {job.name: region_plan.known(job, *self._how) for job in plan}
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
    many = side_by_side.make(extractor, config, device, options.extract_workers)
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
        lambda number, name=name: region_plan.name(name, number), len(found)
      )
    if self._mapping is not None and any(self._there.values()):
      rows = region_plan.mapping_rows(self._names, self._there)
      region_mapping.write(self._mapping, rows)
    return self._report()

  def _report(self, interrupted=False):
    return region_report.RegionReport(
      done=tuple(self._done),
      skipped=tuple(self._skipped),
      failed=tuple(self._failed),
      files=tuple(
        region_plan.name(name, number)
        for name, numbers in self._there.items()
        for number in sorted(numbers)
      ),
      seconds=time.perf_counter() - self._start,
      interrupted=interrupted,
    )

  def _loop(self, many, options):
    stream = prefetch.decode_ahead(self.todo, self._load, options.workers)
    bar = progress.count("extracting regions of images", len(self.todo))
    parts = self._parts(stream, bar)
    results = many.run(parts)
    try:
      for part, features in results:
        problem = problems.find(part.job.path, features)
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
        yield prefetch.Decoded(decoded.job, error=problem)
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
    parts = region_plan.of_detections(job, found, size, self._choice)
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
      reason = problems.find(decoded.job.path, error)
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
    self._failed.append(extract_report.Failure(job.path, words))

  def _load(self, path):
    return utils.RgbLoader(path, apply_rotation=self._choice.apply_rotation)


def _cut(part, image):
  """Returns the prefetch.Decoded of a region of a photo [H, W, 3]."""
  if part.crop is None:
    return prefetch.Decoded(part, image=image)
  return prefetch.Decoded(part, image=part.crop.cut(image)[0])
