"""Photos with boxes that can be learnt, and a detector to begin with."""

import numpy as np
import PIL.Image


def write(folder):
  """Writes twelve photos that are bright in their boxes.

  Args:
    folder: pathlib.Path of a folder.

  Returns:
    Paths of the CSV file and of the folder of photos, as text.
  """
  rng = np.random.default_rng(0)
  photos = folder / "photos"
  photos.mkdir()
  rows = ["image_id,box"]
  for i in range(12):
    image = rng.integers(0, 60, [64, 80, 3], dtype=np.uint8)
    top, left = rng.integers(0, 24, 2)
    image[top : top + 40, left : left + 40] += 150
    PIL.Image.fromarray(image).save(photos / f"p{i}.png")
    box = [top / 64, left / 80, (top + 40) / 64, (left + 40) / 80]
    rows.append(f"p{i},{' '.join(map(str, box))}")
  path = folder / "boxes.csv"
  path.write_text("\n".join(rows))
  return str(path), str(photos)


def write_detector(folder):
  """Writes a detector of random weights; returns its folder."""
  from delf.learning import detector_network

  detector_network.export(detector_network.Detector(), folder / "boxes")
  return folder / "boxes"
