"""Writes a training checkpoint of the compact model as a SavedModel."""

import pathlib

import numpy as np

from delf.python import files
from delf.python.training import exporting
from delf.python.training.embedded import trainer
from delf.python.training.model import delg_model

# Overlap of two boxes above which the weaker feature goes.
IOU = 0.5

CONFIG = """\
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


def export(checkpoint, folder, iou=IOU, scales=None, threshold=None):
  """Exports a checkpoint and writes its configuration beside the model.

  Args:
    checkpoint: As for `load`.
    folder: Folder of the SavedModel to be; an export in it is replaced.
    iou: Overlap of two boxes above which the weaker feature goes.
    scales: Image scales of the configuration.
    threshold: Least attention.
  """
  folder = pathlib.Path(folder)
  kept = {
    path.name: path.read_bytes()
    for path in folder.glob("*.md")
    if folder.is_dir()
  }
  exporting.export_local_and_global(
    load(checkpoint), folder, iou=iou, overwrite=True
  )
  scales = scales or SCALES
  text = CONFIG.format(
    name=folder.name,
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in scales),
    threshold=THRESHOLD if threshold is None else threshold,
    indices="\n  ".join(
      f"image_scales_ind: {i}"
      for i, scale in enumerate(scales)
      if scale in GLOBAL_SCALES
    ),
  )
  files.write_bytes(folder / "config.pbtxt", text.encode())
  for name, data in kept.items():
    files.write_bytes(folder / name, data)


SCALES = (0.25, 0.35355339, 0.5, 0.70710677, 1.0)
GLOBAL_SCALES = (0.35355339, 0.5, 0.70710677)
THRESHOLD = 0.05
