"""Script that finds boxes in the images that a list names."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.extraction import detect


def define_flags():
  """Define the flags; defaults are relative to this folder."""
  help = "folder of a detector's SavedModel, or the name of a known one"
  define("detector_path", "/tmp/d2r_frcnn_20190411/", help)
  define("detector_thresh", 0.0, "the least score of a box")
  scripts.define_list("list_images.txt")
  define("output_dir", "test_boxes", "folder for <image>.boxes")
  help = "folder for <image>_viz.jpg; no pictures if empty"
  define("output_viz_dir", "", help)
  scripts.define_device()


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
