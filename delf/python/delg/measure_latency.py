"""Script that measures how long the extraction of an image takes."""

import statistics

from absl import flags

from delf.base import files
from delf.cli import scripts
from delf.extraction import extract
from delf.formats import configs

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    "delf_config_path",
    "/tmp/delf_config_example.pbtxt",
    "DelfConfig: model and settings",
  )
  flags.DEFINE_string(
    "list_images_path",
    "/tmp/list_images.txt",
    "text file, one image path per line",
  )
  flags.DEFINE_integer(
    "repeat_per_image", 10, "how often each image is extracted"
  )
  flags.DEFINE_boolean(
    "binary_local_features",
    False,
    "whether to count also how long local descriptors take to become bits",
  )
  flags.DEFINE_string(
    "device", None, "cpu, gpu or gpu:N; the best there is if not set"
  )


def main():
  """Measures and prints; returns the exit status."""
  from delf.inference import extractor

  images = files.read_lines(FLAGS.list_images_path)
  config = configs.read_delf_config(FLAGS.delf_config_path)
  measured = extract.measure(
    images,
    extractor.make_extractor(config, device=FLAGS.device),
    FLAGS.repeat_per_image,
    FLAGS.binary_local_features,
  )
  for failure in measured.failed:
    scripts.print_problem(failure)
  if measured.seconds:
    _print(measured)
  return 1 if measured.failed else 0


def _print(measured):
  """Prints what was measured, for people."""
  ordered = sorted(measured.seconds)
  lines = [
    f"device                  {measured.device}",
    f"images                  {len(ordered)}",
    f"extractions per image   {FLAGS.repeat_per_image}",
    f"seconds per image       {measured.mean:.4f} (mean)",
    f"  median                {statistics.median(ordered):.4f}",
    f"  fastest, slowest      {ordered[0]:.4f}, {ordered[-1]:.4f}",
    f"images per second       {1 / measured.mean:.2f}",
    f"local features          {statistics.fmean(measured.features):.0f} (mean)",
  ]
  if measured.binary_seconds is not None:
    binary = statistics.fmean(measured.binary_seconds)
    lines.append(f"of it, binary features  {binary:.6f} s per image")
  print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
