"""Rank a data set's images by aggregates and measure it (script)."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.evaluation import retrieval
from delf.formats import configs


def define_flags() -> None:
  """Define the flags."""
  scripts.define_retrieval()
  path = "/tmp/index_aggregation_config.pbtxt"
  help = "AggregationConfig of the index images; its settings compare images."
  define("index_aggregation_config_path", path, help)
  path = "/tmp/query_aggregation_config.pbtxt"
  help = "AggregationConfig of the queries."
  define("query_aggregation_config_path", path, help)
  help = "Folder with the aggregate of each index image."
  define("index_aggregation_dir", "/tmp/index_aggregation", help)
  help = "Folder with the aggregate of each query."
  define("query_aggregation_dir", "/tmp/query_aggregation", help)
  help = "Folder with <name>.delf or <name>_0.delf of index images, to verify."
  define("index_features_dir", "/tmp/index_features", help)
  help = "Folder with <name>.delf of the queries, to verify."
  define("query_features_dir", "/tmp/query_features", help)


def main() -> int:
  """Rank, verify if requested, and measure; return the exit status."""
  query = configs.read_aggregation_config(FLAGS.query_aggregation_config_path)
  index = configs.read_aggregation_config(FLAGS.index_aggregation_config_path)
  truth = retrieval.read_truth(FLAGS.dataset_file_path)
  folders = FLAGS.query_aggregation_dir, FLAGS.index_aggregation_dir
  ranking = retrieval.search_aggregates(truth, query, index, *folders)
  local = None
  if FLAGS.use_geometric_verification:
    local = retrieval.local_files(
      truth, FLAGS.query_features_dir, FLAGS.index_features_dir, files.DELF
    )
  report = retrieval.evaluate(truth, ranking, FLAGS.output_dir, local)
  return report.say(print, scripts.print_problem)


if __name__ == "__main__":
  scripts.run(main, define_flags)
