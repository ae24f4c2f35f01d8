"""Extract local features of a data set's query images (script)."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.evaluation import ground_truth
from delf.formats import configs


def define_flags() -> None:
  """Define the flags."""
  scripts.define_extraction("Folder for <name>.delf.")


def main() -> int:
  """Extract features that the folder lacks; return the exit status."""
  config = configs.read_local_config(FLAGS.delf_config_path)
  return scripts.extract_images(config, scripts.images(ground_truth.QUERY))


if __name__ == "__main__":
  scripts.run(main, define_flags)
