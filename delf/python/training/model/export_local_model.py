"""Export the local features of a checkpoint to a SavedModel."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS


def define_flags() -> None:
  """Define the flags."""
  scripts.define_export()
  scripts.define_local_export()


def main() -> None:
  """Read the checkpoint and write the SavedModel."""
  from delf.formats import network_files
  from delf.networks import exporting

  model = scripts.load_model("local")
  exporting.export(
    model,
    FLAGS.export_path,
    network_files.LOCAL,
    iou=FLAGS.iou,
    overwrite=FLAGS.overwrite,
  )
  print(f"wrote {FLAGS.export_path}")  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
