r"""Export the best network of a run of global training.

python -m delf.python.training.global_features.export_global_features \
    --model_directory=runs/retrieval-SfM-120k_ResNet101_... --export_path=model
"""

import pathlib

from delf.cli import scripts
from delf.cli.scripts import FLAGS


def define_flags() -> None:
  """Define the flags."""
  help = "folder of the run, with settings.json"
  scripts.define("model_directory", None, help, required=True)
  help = "folder for the SavedModel"
  scripts.define("export_path", None, help, required=True)
  scripts.define("overwrite", False, "whether to replace a finished export")


def main() -> None:
  """Read the weights and write the SavedModel."""
  from delf.learning import pairs

  path = pathlib.Path(FLAGS.export_path)
  size = pairs.export(
    pathlib.Path(FLAGS.model_directory), path, FLAGS.overwrite
  )
  print(  # noqa: T201
    f"wrote {path} (descriptors of {size} numbers) and {path}/config.pbtxt"
  )


if __name__ == "__main__":
  scripts.run(main, define_flags)
