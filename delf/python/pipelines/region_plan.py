"""The regions of photos, each a job of its own with a feature file."""

import dataclasses

import numpy as np

from delf.python import boxes, errors, utils
from delf.python.pipelines import cropping, jobs, region_mapping


@dataclasses.dataclass(frozen=True)
class Choice:
  """Which boxes of a photo are regions.

  Attributes:
    threshold: The least score.
    most: The most boxes, those of the highest scores; None for all.
    apply_rotation: Whether photos are turned as their EXIF orientation says.
  """

  threshold: float
  most: int | None = None
  apply_rotation: bool = False


def name(image, number):
  """Returns the name of the feature file of a region, without extension.

  Args:
    image: Name of the image.
    number: 0 for the whole image, else the region's place from 1.
  """
  return f"{image}_{number}"


def of_detections(job, found, size, choice):
  """Returns the regions of a photo as jobs: the whole image, then its boxes.

  Args:
    job: jobs.Job of the photo.
    found: detections.Detections.
    size: (height, width) of the photo in pixels.
    choice: Choice.

  Returns:
    list of jobs.Job, the first of them without a crop, the others in the order
    of the detector.
  """
  found = found.at_least(choice.threshold)
  if choice.most is not None:
    best = np.argsort(-found.scores, kind="stable")[: choice.most]
    found = found.take(np.sort(best))
  pixels = boxes.to_crops(found.boxes, *size)[:, [1, 0, 3, 2]].tolist()
  crops = [None, *(cropping.Crop(tuple(box)) for box in pixels)]
  return [
    jobs.Job(job.path, name(job.name, number), job.size, crop)
    for number, crop in enumerate(crops)
  ]


def known(job, folder, choice):
  """Returns the regions of a photo whose boxes are there, or None.

  Args:
    job: jobs.Job of the photo.
    folder: box_folder.BoxFolder.
    choice: Choice.

  Returns:
    list of jobs.Job; None where there are no boxes, or something is wrong with
    them or the photo, which is then seen when it is worked on.
  """
  try:
    found = folder.read(job)
    if found is None:
      return None
    size = utils.image_size(job.path, choice.apply_rotation)
  except (errors.InputError, OSError):
    return None
  return of_detections(job, found, size, choice)


def mapping_rows(names, there):
  """Returns the rows of the mapping of images to the files of their regions.

  Args:
    names: Names of all images, in the order of their ids.
    there: dict of image name to the numbers of its regions that have files.

  Returns:
    list of (name, image id, box id), as `region_mapping.write` takes them.
  """
  return [
    (name(image, number), place, number + region_mapping.WHOLE)
    for place, image in enumerate(names)
    for number in sorted(there.get(image, ()))
  ]
