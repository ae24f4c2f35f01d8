"""Writes a training checkpoint of the compact model as a SavedModel."""

import json
import os
import pathlib

from delf.python import files
from delf.python.inference import zoo, zoo_table
from delf.python.training import exporting
from delf.python.training.model import delg_model, export_folder
from delf.python.training.self_supervised import trainer, weights_file

# Overlap of two boxes above which the weaker feature goes.
IOU = 0.4

# Of the configuration, chosen on held-out photos (docs/EMBEDDED_MODEL.md): few
# scales, with the finest enlarged, where locations are the most exact.
SCALES = (0.3, 0.5, 0.85, 1.6)
GLOBAL_SCALES = (0.5, 0.85)
THRESHOLD = 0.4

_CONFIGURATION = """\
# The model that comes with the package: local features and a global descriptor.

model_path: {path}
{scales}
max_image_size: 1024
use_local_features: true
use_global_features: true
delf_local_config {{
  use_pca: false
  max_feature_num: 2000
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
    InputError: If it is no such file, or if a variable is missing or of
      another shape or name.
  """
  model = delg_model.Delg(backbone="compact", block3_strides=False)
  variables = model.backbone.variables + model.attention.variables
  trainer.assign(variables, trainer.read(path), path)
  return model


def export(model, folder, iou=IOU):
  """Exports a model, with its configuration and training weights beside it.

  Args:
    model: delg_model.Delg, as of `load`.
    folder: Folder of the SavedModel to be; an export in it is replaced, its
      Markdown files stay.
    iou: Overlap of two boxes above which the weaker feature goes.
  """
  folder = pathlib.Path(folder)
  settings = configuration(model_path(folder)).encode()
  kept = {path.name: path.read_bytes() for path in folder.glob("*.md")}
  with export_folder.destination(folder, overwrite=True) as new:
    exporting.export_local_and_global(model, new, iou=iou)
    weights_file.save(model, new)
    for name, data in (kept | {"config.pbtxt": settings}).items():
      files.write_bytes(new / name, data)


def model_path(folder):
  """Returns what a configuration calls the model in a folder."""
  embedded = zoo.artefact(zoo_table.EMBEDDED)
  if folder.resolve() == zoo.folder(embedded).resolve():
    return embedded.name
  # Absolute: a relative one that is not found may be taken for a known name.
  return os.fspath(folder.resolve())


def configuration(model_path):
  """Returns the text of the DelfConfig of a model of this name or path."""
  indices = [i for i, scale in enumerate(SCALES) if scale in GLOBAL_SCALES]
  return _CONFIGURATION.format(
    path=json.dumps(model_path, ensure_ascii=False),
    scales="\n".join(f"image_scales: {scale:.7g}" for scale in SCALES),
    threshold=THRESHOLD,
    indices="\n  ".join(f"image_scales_ind: {i}" for i in indices),
  )
