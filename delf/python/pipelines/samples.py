"""Sample photos that come with scikit-image."""

import pathlib
import typing

from PIL import Image

from delf.python import files


class SamplePhotos(typing.NamedTuple):
  """Paths of two photos of one scene, and of one of something else.

  Attributes:
    left: A motorcycle in a workshop, 741 x 500 pixels.
    right: The same from 19 cm further right: the other half of a stereo pair of
      the Middlebury benchmark of 2014.
    other: A cup of coffee, 600 x 400 pixels, by Rachel Michetti (CC0).
  """

  left: pathlib.Path
  right: pathlib.Path
  other: pathlib.Path


def write_sample_photos(folder):
  """Writes the sample photos as JPEG files.

  They lie in the wheel of scikit-image itself (0.24 and later, measured), so
  that nothing is downloaded.

  Args:
    folder: Path of a folder, made if need be.

  Returns:
    SamplePhotos, a tuple of three pathlib.Path.
  """
  # scikit-image takes a third of a second to load.
  from skimage import data

  left, right, _ = data.stereo_motorcycle()
  photos = {
    "motorcycle_left": left,
    "motorcycle_right": right,
    "coffee": data.coffee(),
  }
  folder = pathlib.Path(folder)
  paths = [folder / f"{name}.jpg" for name in photos]
  for path, pixels in zip(paths, photos.values(), strict=True):
    with files.atomic_path(path) as temporary:
      Image.fromarray(pixels).save(temporary, quality=92)
  return SamplePhotos(*paths)
