"""Script that extracts features of a data set's query or index images."""

from absl import flags

from delf.python import config_io, files, script_flags
from delf.python.pipelines import dataset_images, extract

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  script_flags.define_dataset_extraction(
    "folder for <name>.delg_local and <name>.delg_global"
  )
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
  images = dataset_images.read(
    FLAGS.dataset_file_path,
    FLAGS.image_set,
    FLAGS.images_dir,
    scale_limits=True,
  )
  report = extract.extract_and_say(
    images.paths,
    config,
    FLAGS.output_features_dir,
    script_flags.print_problem,
    names=images.names,
    crops=images.crops,
    local_extension=files.DELG_LOCAL,
    device=FLAGS.device,
  )
  print(f"{FLAGS.output_features_dir}: {report.summary()}")  # noqa: T201
  return report.exit_status


if __name__ == "__main__":
  script_flags.run(main, define_flags)
