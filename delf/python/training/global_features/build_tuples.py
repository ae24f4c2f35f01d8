r"""Write photos and pairs in the format of retrieval-SfM-120k.

  python -m delf.python.training.global_features.build_tuples \
    --images=photos/ --data_root=data

Photos that cannot be read are left out and reported; the exit status is then 1.
"""

from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.python.datasets.sfm120k import sfm120k
from delf.records import tuples


def define_flags() -> None:
  """Define the flags."""
  help = "folder with a folder of photos for each object or place"
  define("images", None, help, required=True)
  help = (
    "CSV with url (path below --images) and landmark_id, instead of folders"
  )
  define("csv", None, help)
  define("data_root", "data", f"folder for train/{sfm120k.NAME}/")
  help = "share of the objects for validation"
  define("validation_share", 0.2, help, lower_bound=0.0, upper_bound=0.9)
  define("seed", 0, "seed of this split")
  define("overwrite", False, "whether to replace an existing data set")


def main() -> int:
  """Write photos and pairs; return 1 if a photo was left out."""
  if FLAGS.csv:
    groups = tuples.groups_of_csv(FLAGS.csv, FLAGS.images)
  else:
    groups = tuples.groups_of_folder(FLAGS.images)
  how = FLAGS.validation_share, FLAGS.seed, FLAGS.overwrite
  problems = []

  def say(line):
    problems.append(line)
    scripts.print_problem(line)

  counts = tuples.write_tuples(groups, sfm120k.NAME, FLAGS.data_root, *how, say)
  for mode, numbers in counts.items():
    listed = ", ".join(f"{number} {name}" for name, number in numbers.items())
    print(f"{mode}: {listed}")  # noqa: T201
  return 1 if problems else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
