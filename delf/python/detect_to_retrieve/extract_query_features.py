"""Script that extracts local features of a data set's query images."""

from absl import flags

from delf.python import config_io, dataset_flags, script_flags
from delf.python.pipelines import dataset_images

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  dataset_flags.define("folder for <name>.delf")


def main():
  """Extracts what is missing in the folder; returns the exit status."""
  config = config_io.read_local_config(FLAGS.delf_config_path)
  found = dataset_flags.images(dataset_images.QUERY)
  return dataset_flags.extract_images(config, found)


if __name__ == "__main__":
  script_flags.run(main, define_flags)
