"""Where a data set of tuples has its file and its images."""

import os

# Names end in their folders, from the last characters on.
_FOLDER_ENDS = ((-2, None), (-4, -2), (-6, -4))


def database_path(name, data_root, eccv2020=False):
  """Returns the path of a data set's file, `train/<name>/` or beside it."""
  file = f"{name}-val-eccv2020.pkl" if eccv2020 else f"{name}.pkl"
  usual = os.path.join(data_root, "train", name, file)
  flat = os.path.join(data_root, file)
  return flat if os.path.exists(flat) and not os.path.exists(usual) else usual


def images_folder(path, data_root, name):
  """Returns the folder of the images: beside the file, or of the name.

  Args:
    path: Path of the data set's file.
    data_root: Folder of all data sets.
    name: Name of the data set whose images it may share.
  """
  beside = os.path.join(os.path.dirname(path), "ims")
  shared = os.path.join(data_root, "train", name, "ims")
  return shared if os.path.isdir(shared) else beside


def image_path(image_id, prefix):
  """Returns where an image lies: `<prefix>/<56>/<34>/<12>/<..123456>`."""
  folders = [image_id[start:end] for start, end in _FOLDER_ENDS]
  return os.path.join(prefix or "", *folders, image_id)
