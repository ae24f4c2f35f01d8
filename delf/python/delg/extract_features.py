"""Script that extracts features of a data set's query or index images."""

from absl import flags

from delf.python import config_io, dataset_flags, files, script_flags
from delf.python.pipelines import dataset_images

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  dataset_flags.define("folder for <name>.delg_local and <name>.delg_global")
  flags.DEFINE_enum(
    "image_set",
    dataset_images.QUERY,
    [dataset_images.QUERY, dataset_images.INDEX],
    "query: cropped to the box of the ground truth, with size limits that "
    "shrink with it; index: whole",
  )


def main():
  """Extracts what is missing in the folder; returns the exit status."""
  config = config_io.read_delf_config(FLAGS.delf_config_path)
  found = dataset_flags.images(FLAGS.image_set, scale_limits=True)
  return dataset_flags.extract_images(
    config, found, local_extension=files.DELG_LOCAL
  )


if __name__ == "__main__":
  script_flags.run(main, define_flags)
