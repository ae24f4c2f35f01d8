"""Export the global descriptor of a checkpoint to a SavedModel."""

from absl import flags

from delf.base import errors
from delf.cli import scripts
from delf.cli.scripts import FLAGS


def define_flags() -> None:
  """Define the flags."""
  scripts.define_export()
  scripts.define_global_export(delg_global_features=False)
  flags.DEFINE_list(
    "input_scales_list",
    None,
    "Fixed image scales, separated by commas; by default scales are an input.",
  )
  help = "Pooling of the descriptors of all scales."
  choices = ["None", "average", "sum"]
  scripts.define("multi_scale_pool_type", "None", help, choices)
  help = "Whether to L2-normalise the output."
  scripts.define("normalize_global_descriptor", False, help)


def main() -> None:
  """Read the checkpoint and write the SavedModel."""
  from delf.formats import network_files
  from delf.networks import exporting

  try:
    scales = [float(scale) for scale in FLAGS.input_scales_list or ()]
  except ValueError:
    listed = ",".join(FLAGS.input_scales_list)
    raise errors.InputError(
      f"--input_scales_list must be numbers, not {listed}"
    ) from None
  model = scripts.load_model("global")
  exporting.export(
    model,
    FLAGS.export_path,
    network_files.GLOBAL,
    input_scales=scales or None,
    pool_type=FLAGS.multi_scale_pool_type,
    normalize=FLAGS.normalize_global_descriptor,
    overwrite=FLAGS.overwrite,
  )
  print(f"wrote {FLAGS.export_path}")  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
