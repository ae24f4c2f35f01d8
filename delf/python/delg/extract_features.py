"""Extract features of a data set's query or index images (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.evaluation import ground_truth
from delf.formats import configs


def define_flags() -> None:
  """Define the flags."""
  scripts.define_extraction(
    "Folder for <name>.delg_local and <name>.delg_global."
  )
  scripts.define(
    "image_set",
    ground_truth.QUERY,
    "query: images are cropped to the box of the ground truth, and size limits "
    "shrink likewise; index: images are whole.",
    [ground_truth.QUERY, ground_truth.INDEX],
  )


def main() -> int:
  """Extract features that the folder lacks; return the exit status."""
  config = configs.read_delf_config(FLAGS.delf_config_path)
  images = scripts.images(FLAGS.image_set, scale_limits=True)
  extension = files.DELG_LOCAL
  return scripts.extract_images(config, images, local_extension=extension)


if __name__ == "__main__":
  scripts.run(main, define_flags)
