"""Script that extracts local features of a data set's query images."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.evaluation import ground_truth
from delf.formats import configs


def define_flags():
  """Defines the flags."""
  scripts.define_extraction("folder for <name>.delf")


def main():
  """Extracts what is missing in the folder; returns the exit status."""
  config = configs.read_local_config(FLAGS.delf_config_path)
  found = scripts.images(ground_truth.QUERY)
  return scripts.extract_images(config, found)


if __name__ == "__main__":
  scripts.run(main, define_flags)
