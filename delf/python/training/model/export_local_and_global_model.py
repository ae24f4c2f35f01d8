"""Export local features and the global descriptor of a checkpoint."""

from delf.cli import scripts
from delf.cli.scripts import FLAGS


def define_flags() -> None:
  """Define the flags."""
  scripts.define_export()
  scripts.define_local_export()
  scripts.define_global_export(delg_global_features=True)


def main() -> None:
  """Read the checkpoint and write the SavedModel."""
  from delf.networks import exporting

  model = scripts.load_model("local", "global")
  exporting.export(
    model, FLAGS.export_path, iou=FLAGS.iou, overwrite=FLAGS.overwrite
  )
  print(f"wrote {FLAGS.export_path}")  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
