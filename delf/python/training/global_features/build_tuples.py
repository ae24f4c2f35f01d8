"""Script that puts one's own photos in the form of retrieval-SfM-120k."""

from absl import flags

from delf.python import script_flags
from delf.python.datasets import tuples_folder
from delf.python.datasets.sfm120k import sfm120k

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags."""
  flags.DEFINE_string(
    "images", None, "folder with a folder of photos for each thing or place"
  )
  flags.DEFINE_string(
    "csv",
    None,
    "CSV with url (path below --images) and landmark_id, in place of folders",
  )
  flags.DEFINE_string(
    "data_root", "data", f"folder that gets train/{sfm120k.NAME}/"
  )
  flags.DEFINE_float(
    "validation_share",
    0.2,
    "share of the things that are for validation",
    lower_bound=0.0,
    upper_bound=0.9,
  )
  flags.DEFINE_integer("seed", 0, "what the choice of these depends on")
  flags.mark_flag_as_required("images")


def main():
  """Writes photos and pairs, and says how many."""
  if FLAGS.csv:
    groups = tuples_folder.groups_of_csv(FLAGS.csv, FLAGS.images)
  else:
    groups = tuples_folder.groups_of_folder(FLAGS.images)
  counts = tuples_folder.write(
    groups, sfm120k.NAME, FLAGS.data_root, FLAGS.validation_share, FLAGS.seed
  )
  for mode, found in counts.items():
    words = ", ".join(f"{number} {name}" for name, number in found.items())
    print(f"{mode}: {words}")  # noqa: T201


if __name__ == "__main__":
  script_flags.run(main, define_flags)
