"""Detect boxes in a data set's index images and extract features (script)."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.evaluation import ground_truth
from delf.extraction import regions
from delf.formats import configs


def define_flags() -> None:
  """Define the flags."""
  outputs = "Folder for <name>_0.delf of images, <name>_1.delf etc. of boxes."
  scripts.define_extraction(outputs)
  help = "Folder of the detector, or its name, such as delf-boxes."
  define("detector_model_dir", "/tmp/detector_model", help)
  help = "Least score of a box whose features are extracted."
  define("detector_thresh", 0.1, help)
  help = "Folder for <name>.boxes, with all boxes."
  define("output_boxes_dir", "/tmp/boxes", help)
  help = "CSV file to write, of the feature files of each index image."
  define("output_index_mapping", "/tmp/index_mapping.csv", help)


def main() -> int:
  """Extract features that the folders lack; return the exit status."""
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
