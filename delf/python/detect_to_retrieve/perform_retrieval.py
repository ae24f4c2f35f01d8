"""Script that ranks a data set's images by aggregates, and measures it."""

from absl import flags

from delf.python import config_io, files, script_flags
from delf.python.pipelines import retrieval_files, retrieve, search_aggregates
from delf.python.retrieval import verification

FLAGS = flags.FLAGS

# Detect-to-Retrieve's: distance of descriptors, pixels.
VERIFICATION = verification.VerifyOptions(0.9, 10.0)


def define_flags():
  """Defines the flags."""
  script_flags.define_retrieval()
  flags.DEFINE_string(
    "index_aggregation_config_path",
    "/tmp/index_aggregation_config.pbtxt",
    "AggregationConfig of the index images; images are compared as it says",
  )
  flags.DEFINE_string(
    "query_aggregation_config_path",
    "/tmp/query_aggregation_config.pbtxt",
    "AggregationConfig of the queries",
  )
  flags.DEFINE_string(
    "index_aggregation_dir",
    "/tmp/index_aggregation",
    "folder with the aggregate of each index image",
  )
  flags.DEFINE_string(
    "query_aggregation_dir",
    "/tmp/query_aggregation",
    "folder with the aggregate of each query",
  )
  flags.DEFINE_string(
    "index_features_dir",
    "/tmp/index_features",
    "to verify: folder with <name>.delf (or <name>_0.delf) of index images",
  )
  flags.DEFINE_string(
    "query_features_dir",
    "/tmp/query_features",
    "to verify: folder with <name>.delf of the queries",
  )


def main():
  """Ranks, verifies if asked to, and measures; returns the exit status."""
  query_config, index_config = (
    config_io.read_aggregation_config(path)
    for path in (
      FLAGS.query_aggregation_config_path,
      FLAGS.index_aggregation_config_path,
    )
  )
  truth = retrieve.read_truth(FLAGS.dataset_file_path)
  local = None
  if FLAGS.use_geometric_verification:
    local = retrieve.LocalFeatureFiles(
      FLAGS.query_features_dir,
      FLAGS.index_features_dir,
      files.DELF,
      retrieval_files.whole_image_paths(
        truth.index_names, FLAGS.index_features_dir, files.DELF
      ),
    )
  found = search_aggregates.search(
    truth,
    query_config,
    index_config,
    FLAGS.query_aggregation_dir,
    FLAGS.index_aggregation_dir,
  )
  report = retrieve.evaluate(
    truth, found, FLAGS.output_dir, local, VERIFICATION
  )
  return retrieve.say(report, print, script_flags.print_problem)


if __name__ == "__main__":
  script_flags.run(main, define_flags)
