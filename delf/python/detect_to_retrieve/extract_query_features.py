"""Script that extracts local features of a data set's query images."""

from absl import flags

from delf.python import config_io, script_flags
from delf.python.pipelines import dataset_images, extract

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  script_flags.define_dataset_extraction("folder for <name>.delf")


def main():
  """Extracts what is missing in the folder; returns the exit status."""
  config = config_io.read_local_config(FLAGS.delf_config_path)
  images = dataset_images.read(
    FLAGS.dataset_file_path,
    dataset_images.QUERY,
    FLAGS.images_dir,
    scale_limits=False,
  )
  report = extract.extract_and_say(
    images.paths,
    config,
    FLAGS.output_features_dir,
    script_flags.print_problem,
    names=images.names,
    crops=images.crops,
    device=FLAGS.device,
  )
  print(f"{FLAGS.output_features_dir}: {report.summary()}")  # noqa: T201
  return report.exit_status


if __name__ == "__main__":
  script_flags.run(main, define_flags)
