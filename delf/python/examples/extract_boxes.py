"""Script that finds boxes in the images that a list names."""

from absl import flags

from delf.base import files
from delf.cli import scripts
from delf.extraction import detect

FLAGS = flags.FLAGS


def define_flags():
  """Define the flags; defaults are relative to this folder."""
  flags.DEFINE_string(
    "detector_path",
    "/tmp/d2r_frcnn_20190411/",
    "folder of a detector's SavedModel, or the name of a known one",
  )
  flags.DEFINE_float("detector_thresh", 0.0, "the least score of a box")
  flags.DEFINE_string(
    "list_images_path", "list_images.txt", "text file, one image path per line"
  )
  flags.DEFINE_string("output_dir", "test_boxes", "folder for <image>.boxes")
  flags.DEFINE_string(
    "output_viz_dir", "", "folder for <image>_viz.jpg; no pictures if empty"
  )
  flags.DEFINE_string(
    "device", None, "cpu, gpu or gpu:N; the best there is if not set"
  )


def main():
  """Find the boxes that are missing in the folder; returns the exit status."""
  report = detect.detect_to_files(
    files.read_lines(FLAGS.list_images_path),
    FLAGS.detector_path,
    FLAGS.output_dir,
    FLAGS.output_viz_dir or None,
    say=scripts.print_problem,
    threshold=FLAGS.detector_thresh,
    device=FLAGS.device,
  )
  return scripts.print_report(FLAGS.output_dir, report)


if __name__ == "__main__":
  scripts.run(main, define_flags)
