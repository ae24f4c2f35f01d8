"""Features of many images, from image files to feature files."""

import dataclasses
from collections.abc import Sequence

from delf.python import files
from delf.python.pipelines import (
  cropping,
  extract_report,
  image_run,
  jobs,
  output_folder,
  provenance,
  run_options,
)


@dataclasses.dataclass(frozen=True)
class ExtractOptions(run_options.RunOptions):
  """How to extract, as RunOptions and more; the configuration says what.

  Attributes:
    crops: cropping.Crop of each image, or None for all of it; None for all of
      each. Locations are then in pixels of the part.
    local_extension: Extension of local features' files.
    extractor: Extractor to use in place of one made from the configuration.
  """

  crops: Sequence[cropping.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: object = None


def extract_and_say(images, config, output_dir, say, **options):
  """Does `extract_to_files` for a program; what failed is said in any case.

  Args:
    images: As in `extract_to_files`.
    config: As there.
    output_dir: As there.
    say: Function of a line: called for each image that failed, also before an
      error, as of a full disk.
    **options: Fields of ExtractOptions.

  Returns:
    ExtractReport.
  """
  return extract_report.say_failures(
    lambda: extract_to_files(images, config, output_dir, **options), say
  )


def extract_to_files(images, config, output_dir, **options):
  """Extracts features of images and writes them, each file whole or not at all.

  Images are decoded in the background; an image that fails is reported and the
  others go on. A run that was ended at any moment can be repeated: it does what
  is missing. `extraction.json` in the folder says what model and settings the
  files are of; others are refused there. `extraction_images.jsonl` has the size
  of each photo, and which part was extracted; others are done again.

  Args:
    images: Paths of image files.
    config: delf_config_pb2.DelfConfig.
    output_dir: Local folder, made if need be, for `<name>.delf` (local
      features) and `<name>.delg_global` (the global descriptor), as the
      configuration asks.
    **options: Fields of ExtractOptions.

  Returns:
    ExtractReport. An interrupt by the user (SIGINT) also ends in one.

  Raises:
    InputError: If nothing can be done: no images, two for one output name, a
      model or configuration that does not work, a folder of other features.
    OSError: If files cannot be written. What was done until then is in its
      attribute `report`, an ExtractReport, if it was begun.
  """
  options = ExtractOptions(**options)
  todo, done = jobs.plan(images, options.names, options.crops), []
  made_with = provenance.describe(
    config, _model_folder(config, options), options.apply_rotation
  )
  folder = output_folder.OutputFolder(
    output_dir, config, options.local_extension, made_with
  )
  folder.check(todo, overwrite=not options.resume)
  if options.resume:
    todo, done = folder.divide(todo)
  skipped = tuple(job.path for job in done)
  if not todo:
    return extract_report.ExtractReport(skipped=skipped)
  folder.prepare()
  extractor = options.extractor or _make_extractor(config, options)
  run = image_run.ImageRun(
    extractor,
    config,
    folder,
    options,
    extract_report.ExtractReport(skipped=skipped),
    "extracting",
  )
  return run.do(todo)


def _model_folder(config, options):
  if options.extractor is not None and not config.model_path:
    return None
  from delf.python.inference import zoo

  return zoo.resolve(config.model_path)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.python.inference import extractor

  return extractor.make_extractor(config, device=options.device)
