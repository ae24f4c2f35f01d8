"""Detect boxes in the images of a list (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.extraction import detect


def define_flags() -> None:
  """Define the flags; defaults are relative to this folder."""
  help = "Folder of a detector's SavedModel, or the name of a known detector."
  define("detector_path", "/tmp/d2r_frcnn_20190411/", help)
  define("detector_thresh", 0.0, "Least score of a box.")
  scripts.define_list("list_images.txt")
  define("output_dir", "test_boxes", "Folder for <image>.boxes.")
  help = "Folder for <image>_viz.jpg; no pictures if empty."
  define("output_viz_dir", "", help)
  scripts.define_device()


def main() -> int:
  """Detect boxes that the folder lacks; return the exit status."""
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
