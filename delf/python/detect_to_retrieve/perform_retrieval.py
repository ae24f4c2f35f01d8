"""Script that ranks a data set's images by aggregates, and measures it."""

from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.evaluation import retrieval
from delf.formats import configs


def define_flags():
  """Define the flags."""
  scripts.define_retrieval()
  define(
    "index_aggregation_config_path",
    "/tmp/index_aggregation_config.pbtxt",
    "AggregationConfig of the index images; images are compared as it says",
  )
  define(
    "query_aggregation_config_path",
    "/tmp/query_aggregation_config.pbtxt",
    "AggregationConfig of the queries",
  )
  help = "folder with the aggregate of each index image"
  define("index_aggregation_dir", "/tmp/index_aggregation", help)
  help = "folder with the aggregate of each query"
  define("query_aggregation_dir", "/tmp/query_aggregation", help)
  help = "to verify: folder with <name>.delf (or <name>_0.delf) of index images"
  define("index_features_dir", "/tmp/index_features", help)
  help = "to verify: folder with <name>.delf of the queries"
  define("query_features_dir", "/tmp/query_features", help)


def main():
  """Ranks, verifies if asked to, and measures; returns the exit status."""
  query = configs.read_aggregation_config(FLAGS.query_aggregation_config_path)
  index = configs.read_aggregation_config(FLAGS.index_aggregation_config_path)
  truth = retrieval.read_truth(FLAGS.dataset_file_path)
  folders = FLAGS.query_aggregation_dir, FLAGS.index_aggregation_dir
  found = retrieval.search_aggregates(truth, query, index, *folders)
  local = None
  if FLAGS.use_geometric_verification:
    local = retrieval.local_files(
      truth, FLAGS.query_features_dir, FLAGS.index_features_dir, files.DELF
    )
  report = retrieval.evaluate(truth, found, FLAGS.output_dir, local)
  return report.say(print, scripts.print_problem)


if __name__ == "__main__":
  scripts.run(main, define_flags)
