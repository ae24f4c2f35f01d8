"""Script that finds boxes in a data set's index images, and extracts both."""

from absl import flags

from delf.cli import scripts
from delf.evaluation import ground_truth
from delf.extraction import regions
from delf.formats import configs

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  scripts.define_extraction(
    "folder for <name>_0.delf of whole images, <name>_1.delf and so on of boxes"
  )
  flags.DEFINE_string(
    "detector_model_dir",
    "/tmp/detector_model",
    "folder of the detector, or its name, such as delf-boxes",
  )
  flags.DEFINE_float(
    "detector_thresh", 0.1, "least score of a box whose features are extracted"
  )
  flags.DEFINE_string(
    "output_boxes_dir", "/tmp/boxes", "folder for <name>.boxes, with all boxes"
  )
  flags.DEFINE_string(
    "output_index_mapping",
    "/tmp/index_mapping.csv",
    "CSV file to be: which feature files are of each index image",
  )


def main():
  """Extracts what is missing in the folders; returns the exit status."""
  config = configs.read_local_config(FLAGS.delf_config_path)
  images = scripts.images(ground_truth.INDEX)
  report = regions.extract_regions(
    images.paths,
    config,
    FLAGS.detector_model_dir,
    FLAGS.output_features_dir,
    FLAGS.output_boxes_dir,
    FLAGS.output_index_mapping,
    say=scripts.print_problem,
    names=images.names,
    threshold=FLAGS.detector_thresh,
    device=FLAGS.device,
    one_core_each=True,
  )
  return scripts.print_report(FLAGS.output_features_dir, report)


if __name__ == "__main__":
  scripts.run(main, define_flags)
