"""Extract features of the images of a list (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.extraction import extract
from delf.formats import configs


def define_flags() -> None:
  """Define the flags; defaults are relative to this folder."""
  help = "DelfConfig: model and settings."
  define("config_path", "delf_config_example.pbtxt", help)
  scripts.define_list("list_images.txt")
  help = "Folder for <image>.delf (local features) and <image>.delg_global."
  define("output_dir", "test_features", help)
  scripts.define_device()


def main() -> int:
  """Extract features that the folder lacks; return the exit status."""
  images = files.read_lines(FLAGS.list_images_path)
  config = configs.read_delf_config(FLAGS.config_path)
  report = extract.extract_to_files(
    images,
    config,
    FLAGS.output_dir,
    say=scripts.print_problem,
    device=FLAGS.device,
  )
  return scripts.print_report(FLAGS.output_dir, report)


if __name__ == "__main__":
  scripts.run(main, define_flags)
