"""Rank a data set's images by DELG features and measure it (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.evaluation import retrieval
from delf.matching import matcher


def define_flags() -> None:
  """Define the flags."""
  scripts.define_retrieval()
  help = "Folder with <name>.delg_global of queries, and .delg_local to verify."
  define("query_features_dir", "/tmp/features/query", help)
  help = "Folder with the same files of the index images."
  define("index_features_dir", "/tmp/features/index", help)
  define(
    "local_descriptor_matching_threshold",
    1.0,
    "Largest distance of matching descriptors; with --use_ratio_test, largest "
    "ratio of the distances to the nearest and the second nearest.",
  )
  help = "Largest residual of an inlier, in pixels."
  define("ransac_residual_threshold", 20.0, help)
  help = "Whether to compare matches with the second nearest descriptor."
  define("use_ratio_test", False, help)


def main() -> int:
  """Rank, verify if requested, and measure; return the exit status."""
  options = matcher.MatchOptions.one_way(
    FLAGS.local_descriptor_matching_threshold,
    FLAGS.ransac_residual_threshold,
    FLAGS.use_ratio_test,
  )
  folders = FLAGS.query_features_dir, FLAGS.index_features_dir
  truth = retrieval.read_truth(FLAGS.dataset_file_path)
  ranking = retrieval.search_global(truth, *folders)
  local = None
  if FLAGS.use_geometric_verification:
    local = retrieval.local_files(truth, *folders, files.DELG_LOCAL)
  report = retrieval.evaluate(truth, ranking, FLAGS.output_dir, local, options)
  return report.say(print, scripts.print_problem)


if __name__ == "__main__":
  scripts.run(main, define_flags)
