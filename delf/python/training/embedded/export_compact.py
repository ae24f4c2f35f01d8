"""Writes a training checkpoint of the compact model as a SavedModel."""

import pathlib

import numpy as np

from delf.python import files
from delf.python.training import exporting
from delf.python.training.embedded import trainer
from delf.python.training.model import delg_model

# Overlap of two boxes above which the weaker feature goes.
IOU = 0.4

# Of the configuration: half octaves; global descriptors
# are taken near the size of the photos that they were trained on.
SCALES = (0.25, 0.35355339, 0.5, 0.70710677, 1.0, 1.4142135)
GLOBAL_SCALES = (0.35355339, 0.5, 0.70710677)
THRESHOLD = 0.05

_CONFIGURATION = """\
# The model that comes with the package: local features and a global descriptor.

model_path: "{name}"
{scales}
max_image_size: 1024
use_local_features: true
use_global_features: true
delf_local_config {{
  use_pca: false
  max_feature_num: 1000
  score_threshold: {threshold}
}}
delf_global_config {{
  use_pca: false
  {indices}
}}
is_tf2_exported: true
"""


def load(path):
  """Makes a model and gives it the weights of a training checkpoint.

  Args:
    path: `checkpoint.npz` of `trainer.Trainer`, or a file of its first part.

  Returns:
    delg_model.Delg.

  Raises:
    InputError: If a variable is missing or of another shape or name.
  """
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  variables = model.backbone.variables + model.attention.variables
  with np.load(path) as arrays:
    trainer.assign(variables, arrays, path)
  return model


def export(model, folder, iou=IOU):
  """Exports a model, with its configuration beside it.

  Args:
    model: delg_model.Delg, as of `load`.
    folder: Folder of the SavedModel to be; an export in it is replaced, its
      Markdown files stay.
    iou: Overlap of two boxes above which the weaker feature goes.
  """
  folder = pathlib.Path(folder)
  kept = {path.name: path.read_bytes() for path in folder.glob("*.md")}
  exporting.export_local_and_global(model, folder, iou=iou, overwrite=True)
  for name, data in kept.items():
    files.write_bytes(folder / name, data)
  files.write_bytes(
    folder / "config.pbtxt", configuration(folder.name).encode()
  )


def configuration(name):
  """Returns the text of the DelfConfig of a model of this name or path."""
  indices = [i for i, scale in enumerate(SCALES) if scale in GLOBAL_SCALES]
  return _CONFIGURATION.format(
    name=name,
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in SCALES),
    threshold=THRESHOLD,
    indices="\n  ".join(f"image_scales_ind: {i}" for i in indices),
  )
