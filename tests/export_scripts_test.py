"""The scripts that export, from flags to folders, with the compact backbone."""

import pytest

from delf.cli import scripts
from delf.networks import model_checkpoints
from delf.python.training.model import (
  delg_model,
  export_global_model,
  export_local_and_global_model,
  export_local_model,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  path = tmp_path_factory.mktemp("checkpoint") / "weights"
  return model_checkpoints.save_weights(model, path)


def _run(script, checkpoint, *options):
  """Runs a script; returns its exit status."""
  flags = [f"--ckpt_path={checkpoint}", "--backbone=compact", *options]
  with pytest.raises(SystemExit) as end:
    scripts.run(script.main, script.define_flags, ["name", *flags])
  return end.value.code or 0


@pytest.mark.slow
def test_says_what_it_wrote(checkpoint, tmp_path, capsys):
  path = tmp_path / "export"
  options = [f"--export_path={path}", "--nouse_autoencoder"]
  assert _run(export_local_model, checkpoint, *options) == 0
  assert capsys.readouterr().out == f"wrote {path}\n"
  assert (path / "saved_model.pb").is_file()


@pytest.mark.parametrize(
  "script, options, words",
  [
    (
      export_local_model,
      ["--autoencoder_dimensions=0"],
      "size of the autoencoder must be an integer over 0, not 0.0",
    ),
    (
      export_global_model,
      ["--delg_global_features", "--delg_embedding_layer_dim=-3"],
      "size of the embedding layer must be an integer over 0, not -3",
    ),
    (
      export_local_and_global_model,
      ["--delg_gem_power=0"],
      "the GeM power must be over 0 and finite, not 0.0",
    ),
    (
      export_global_model,
      ["--delg_global_features", "--delg_embedding_layer_dim=256"]
      + ["--input_scales_list=1,inf"],
      "input scales must be over 0 and finite, not [1.0, inf]",
    ),
  ],
)
def test_values_that_cannot_be_are_one_line(
  checkpoint, tmp_path, capsys, script, options, words
):
  place = f"--export_path={tmp_path / 'export'}"
  assert _run(script, checkpoint, place, *options) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith(words)
  assert list(tmp_path.iterdir()) == []
