"""Script that extracts features of the images that a list names."""

from absl import flags

from delf.base import files
from delf.cli import scripts
from delf.extraction import extract
from delf.formats import configs

FLAGS = flags.FLAGS


def define_flags():
  """Define the flags; defaults are relative to this folder."""
  flags.DEFINE_string(
    "config_path", "delf_config_example.pbtxt", "DelfConfig: model and settings"
  )
  flags.DEFINE_string(
    "list_images_path", "list_images.txt", "text file, one image path per line"
  )
  flags.DEFINE_string(
    "output_dir",
    "test_features",
    "folder for <image>.delf (local features) and <image>.delg_global",
  )
  flags.DEFINE_string(
    "device", None, "cpu, gpu or gpu:N; the best there is if not set"
  )


def main():
  """Extract what is missing in the folder; returns the exit status."""
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
