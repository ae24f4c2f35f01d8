"""Work on many images: decoded ahead, done in batches, written in a thread."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import time

from absl import logging

from delf.python import errors, progress, utils
from delf.python.pipelines import (
  batching,
  extract_report,
  prefetch,
  problems,
)

# Images whose files may wait to be written.
_WRITES_AHEAD = 4


class ImageRun:
  """One pass over the images that are to be done."""

  def __init__(self, extractor, config, folder, options, report, label):
    """Prepares the pass.

    Args:
      extractor: Object with `extract(image)` and `extract_batch(images)`, as
        `batching.BatchExtractor` takes; `device` has words for its device.
      config: delf_config_pb2.DelfConfig, of which sizes and scales count.
      folder: What writes the results: an object with `claim(jobs, overwrite)`,
        called before the first, `write(job, result)` and `close()`, and
        `wants_images`: whether `write` takes the image, too.
      options: Object with `resume`, `batch_size`, `workers`, `apply_rotation`
        and `strict`, as of `extract.ExtractOptions`.
      report: extract_report.ExtractReport, with what was done before.
      label: Words for what is being done.
    """
    self._folder = folder
    self._options = options
    self._extractor = extractor
    self._device = getattr(extractor, "device", None) or "CPU"
    self._limit = batching.memory_limit(
      config, self._device, options.batch_size
    )
    self._label = label
    self._claimed = False
    self._before = report
    self._start = time.perf_counter()
    self._done = []
    self._failed = []

  def do(self, todo):
    """Does the images, and writes what they give.

    Args:
      todo: list of jobs.Job.

    Returns:
      The report, completed; also after an interrupt by the user (SIGINT).

    Raises:
      OSError: If a result cannot be written; it has the `report` until then.
    """
    logging.info("%s: %d images on %s.", self._label, len(todo), self._device)
    try:
      with (
        contextlib.closing(self._folder),
        concurrent.futures.ThreadPoolExecutor(1, "write") as writer,
      ):
        self._loop(todo, writer)
    except KeyboardInterrupt:
      return self._report(interrupted=True)
    except OSError as error:
      error.report = self._report()
      raise
    return self._report()

  def _report(self, interrupted=False):
    seconds = time.perf_counter() - self._start
    return dataclasses.replace(
      self._before,
      done=tuple(self._done),
      failed=tuple(self._failed),
      seconds=seconds,
      images_per_second=len(self._done) / seconds,
      device=self._device,
      interrupted=interrupted,
    )

  def _loop(self, todo, writer):
    stream = prefetch.decode_ahead(todo, self._load, self._options.workers)
    results = batching.BatchExtractor(self._extractor, self._limit).run(stream)
    pending = collections.deque()
    bar = progress.track(
      results, f"{self._label} on {self._device}", total=len(todo)
    )
    try:
      for decoded, result in bar:
        problem = problems.find(decoded.job.path, result)
        if problem:
          self._fail(decoded.job, problem)
          bar.set_postfix_str(f"{len(self._failed)} failed")
          continue
        if not self._claimed:
          self._folder.claim(todo, overwrite=not self._options.resume)
          self._claimed = True
        more = (decoded.image,) if self._folder.wants_images else ()
        pending.append(writer.submit(self._write, decoded.job, result, *more))
        while len(pending) > _WRITES_AHEAD:
          pending.popleft().result()
    finally:
      results.close()
      stream.close()
      while pending:
        pending.popleft().result()

  def _write(self, job, *results):
    # In the writer's thread, which no interrupt reaches: what is written is
    # counted.
    self._folder.write(job, *results)
    self._done.append(job.path)

  def _fail(self, job, problem):
    if self._options.strict:
      raise errors.InputError("a result of each image", problem, job.path)
    logging.info("Failed: %s: %s", job.path, problem)
    self._failed.append(extract_report.Failure(job.path, problem))

  def _load(self, path):
    rotate = self._options.apply_rotation
    return utils.RgbLoader(path, apply_rotation=rotate)
