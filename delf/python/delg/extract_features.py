"""Extract features of a data set's query or index images (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.evaluation import ground_truth
from delf.formats import configs


def define_flags() -> None:
  """Define the flags."""
  outputs = "Folder for <name>.delg_local and <name>.delg_global."
  scripts.define_extraction(outputs)
  help = (
    "query: cropped to ground-truth boxes, limits shrink too; index: whole."
  )
  sets = [ground_truth.QUERY, ground_truth.INDEX]
  scripts.define("image_set", ground_truth.QUERY, help, sets)


def main() -> int:
  """Extract features that the folder lacks; return the exit status."""
  config = configs.read_delf_config(FLAGS.delf_config_path)
  images = scripts.images(FLAGS.image_set, scale_limits=True)
  extension = files.DELG_LOCAL
  return scripts.extract_images(config, images, local_extension=extension)


if __name__ == "__main__":
  scripts.run(main, define_flags)
