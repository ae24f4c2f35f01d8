"""What the scripts share that extract features of a data set's images."""

from absl import flags

from delf.python import script_flags
from delf.python.pipelines import dataset_images, extract

FLAGS = flags.FLAGS


def define(outputs):
  """Defines the flags of all of them.

  Args:
    outputs: Words for what is written to `output_features_dir`.
  """
  flags.DEFINE_string(
    "delf_config_path",
    "/tmp/delf_config_example.pbtxt",
    "DelfConfig: model and settings",
  )
  flags.DEFINE_string(
    "dataset_file_path",
    "/tmp/gnd_roxford5k.mat",
    "ground truth of the data set, .mat or .pkl",
  )
  flags.DEFINE_string(
    "images_dir", "/tmp/images", "folder with <name>.jpg of each image"
  )
  flags.DEFINE_string("output_features_dir", "/tmp/features", outputs)
  flags.DEFINE_string(
    "device", None, "cpu, gpu or gpu:N; the best there is if not set"
  )


def images(image_set, scale_limits=False):
  """Returns the dataset_images.DatasetImages that the flags name.

  Args:
    image_set: "query" or "index".
    scale_limits: As of `dataset_images.read`.
  """
  return dataset_images.read(
    FLAGS.dataset_file_path, image_set, FLAGS.images_dir, scale_limits
  )


def extract_images(config, found, **options):
  """Extracts features of images, and says what became of it.

  Args:
    config: delf_config_pb2.DelfConfig.
    found: dataset_images.DatasetImages.
    **options: More fields of extract.ExtractOptions.

  Returns:
    The exit status.
  """
  report = extract.extract_and_say(
    found.paths,
    config,
    FLAGS.output_features_dir,
    script_flags.print_problem,
    names=found.names,
    crops=found.crops,
    device=FLAGS.device,
    **options,
  )
  return script_flags.print_report(FLAGS.output_features_dir, report)
