r"""Script that puts one's own photos in the form of retrieval-SfM-120k.

  python -m delf.python.training.global_features.build_tuples \
    --images=photos/ --data_root=data

Photos that cannot be read are left out and reported; the exit status is 1 then.
"""

from delf.cli import scripts
from delf.cli.scripts import FLAGS
from delf.python.datasets.sfm120k import sfm120k
from delf.records import tuples


def define_flags():
  """Defines the flags."""
  help = "folder with a folder of photos for each thing or place"
  scripts.define("images", None, help, required=True)
  scripts.define(
    "csv",
    None,
    "CSV with url (path below --images) and landmark_id, in place of folders",
  )
  scripts.define("data_root", "data", f"folder that gets train/{sfm120k.NAME}/")
  scripts.define(
    "validation_share",
    0.2,
    "share of the things that are for validation",
    lower_bound=0.0,
    upper_bound=0.9,
  )
  scripts.define("seed", 0, "what the choice of these depends on")
  scripts.define(
    "overwrite", False, "whether to replace a data set that is there"
  )


def main():
  """Writes photos and pairs; returns 1 if a photo was left out."""
  if FLAGS.csv:
    groups = tuples.groups_of_csv(FLAGS.csv, FLAGS.images)
  else:
    groups = tuples.groups_of_folder(FLAGS.images)
  options = tuples.Options(FLAGS.validation_share, FLAGS.seed, FLAGS.overwrite)
  problems = []

  def say(line):
    problems.append(line)
    scripts.print_problem(line)

  counts = tuples.write_tuples(
    groups, sfm120k.NAME, FLAGS.data_root, options, say
  )
  for mode, found in counts.items():
    listed = ", ".join(f"{number} {name}" for name, number in found.items())
    print(f"{mode}: {listed}")  # noqa: T201
  return 1 if problems else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
