"""Features of many images, from image files to feature files."""

import dataclasses
import os
import typing
from collections.abc import Callable, Sequence

from delf.base import files
from delf.extraction import engine, jobs, output_folder
from delf.formats import features
from delf.protos import delf_config_pb2


@dataclasses.dataclass(frozen=True)
class ExtractOptions(engine.ImageOptions):
  """Options of an extraction; the configuration says what is extracted."""

  # Part of each image, or None for all of it; locations are in its pixels.
  crops: Sequence[jobs.Crop | None] | None = None
  local_extension: str = files.DELF
  extractor: typing.Any = None  # In place of one made from the configuration.
  # Called, in a thread, with name and features of images that were written.
  on_written: Callable[[str, features.ImageFeatures], object] | None = None


def extract_to_files(
  images: Sequence[str | os.PathLike],
  config: delf_config_pb2.DelfConfig,
  output_dir: str | os.PathLike,
  **options: typing.Any,
) -> engine.ImageReport:
  """Extract features of images and write them, each file whole or not at all.

  A failed image does not end the run, and a stopped run can be repeated: it
  does what is missing. `extraction.json` in the folder has the model and
  settings; files of others are refused. `extraction_images.jsonl` has the size
  and part of each photo; photos that differ are extracted again.

  Args:
    images: Paths of image files.
    config: What to extract.
    output_dir: Local folder for `<name>.delf` and `<name>.delg_global`.
    **options: Fields of ExtractOptions.

  Returns:
    Report, also after an interrupt by the user (SIGINT).

  Raises:
    InputError: If nothing can be done, as with a folder of other features.
    OSError: If files cannot be written; its `report` has what was done.
  """
  options = ExtractOptions(**options)
  plan = jobs.plan(images, options.names, options.crops)
  made_with = output_folder.describe(
    config, model_folder(config, options), options.apply_rotation
  )
  folder = output_folder.FeatureFolder(
    output_dir, config, options.local_extension, made_with, options.on_written
  )

  def make():
    return options.extractor or _make_extractor(config, options), config

  return engine.run_images(
    plan, folder, make, options, engine.ImageReport(), "extracting"
  )


def model_folder(
  config: delf_config_pb2.DelfConfig, options: typing.Any
) -> os.PathLike | None:
  """Return the folder of a configuration's model, if it is to be used."""
  if options.extractor is not None and not config.model_path:
    return None
  from delf.inference import zoo

  return zoo.resolve(config.model_path)


def _make_extractor(config, options):
  # TensorFlow is loaded here, once there is something to do.
  from delf.inference import extractor

  return extractor.make_extractor(config, device=options.device)
