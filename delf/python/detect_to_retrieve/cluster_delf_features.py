"""Train a codebook on the features of a data set's index images (script).

The features of whole images are used: `<image>.delf`, or `<image>_0.delf` where
boxes were extracted too. An interrupted run resumes when it is repeated.
"""

import os

from delf.aggregation import clustering
from delf.base import files
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.extraction import extract
from delf.python.datasets.revisited_op import dataset


def define_flags() -> None:
  """Define the flags."""
  help = "Ground truth of Revisited Oxford or Paris, which lists the images."
  define("dataset_file_path", "/tmp/gnd_roxford5k.mat", help)
  define("features_dir", "/tmp/features", "Folder of <image>.delf.")
  define("num_clusters", 1024, "Number of visual words of the codebook.")
  define("num_iterations", 50, "Most iterations of k-means over all features.")
  help = "Folder for the checkpoint `codebook`, which must not be finished yet."
  define("output_cluster_dir", "/tmp/cluster", help)
  help = "Most features to use, chosen at random; 0 for all."
  define("max_features", 0, help, lower_bound=0)
  define("seed", 0, "Seed of the random choices.", lower_bound=0)


def main() -> int:
  """Train the codebook; return the exit status."""
  prefix = os.path.join(FLAGS.output_cluster_dir, "codebook")
  clustering.refuse_finished(prefix)
  _, index_names, _ = dataset.ReadDatasetFile(FLAGS.dataset_file_path)
  report = clustering.cluster_files(
    extract.whole_image_paths(index_names, FLAGS.features_dir, files.DELF),
    prefix,
    num_clusters=FLAGS.num_clusters,
    num_iterations=FLAGS.num_iterations,
    max_features=FLAGS.max_features or None,
    seed=FLAGS.seed,
  )
  for failure in report.failed:
    scripts.print_problem(str(failure))
  print(f"{prefix}: {report.summary()}")  # noqa: T201
  return 1 if report.failed else 0


if __name__ == "__main__":
  scripts.run(main, define_flags)
