"""Script that extracts features of a data set's query or index images."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.evaluation import ground_truth
from delf.formats import configs


def define_flags():
  """Define the flags."""
  scripts.define_extraction(
    "folder for <name>.delg_local and <name>.delg_global"
  )
  scripts.define(
    "image_set",
    ground_truth.QUERY,
    "query: cropped to the box of the ground truth, with size limits that "
    "shrink with it; index: whole",
    [ground_truth.QUERY, ground_truth.INDEX],
  )


def main():
  """Extracts what is missing in the folder; returns the exit status."""
  config = configs.read_delf_config(FLAGS.delf_config_path)
  found = scripts.images(FLAGS.image_set, scale_limits=True)
  return scripts.extract_images(config, found, local_extension=files.DELG_LOCAL)


if __name__ == "__main__":
  scripts.run(main, define_flags)
