"""Extracts regions of a folder's photos, with stand-ins for both models.

python tests/killed/regions.py PHOTOS OUT
"""

import pathlib
import sys
import time

import numpy as np

from delf.base import boxes
from delf.embedded import samples
from delf.extraction import regions
from delf.formats import features
from delf.protos import delf_config_pb2

# Seconds that a region takes, so that there are moments to be killed at.
_TIME = 0.02


class _Extractor:
  device = "CPU"

  def extract(self, image):
    """Returns the mean colours of eight parts of an image."""
    time.sleep(_TIME)
    parts = np.array_split(image.reshape(-1, 3), 8)
    return features.ImageFeatures(
      features.LocalFeatures(
        locations=np.zeros([8, 2], np.float32),
        scales=np.ones([8], np.float32),
        descriptors=np.float32([part.mean(axis=0) for part in parts]),
        attention=np.ones([8], np.float32),
      )
    )


class _Detector:
  def detect(self, images):
    """Returns five boxes of each image."""
    found = boxes.make_detections(
      samples.BOXES,
      samples.SCORES,
      np.ones(len(samples.SCORES)),
    )
    return [found] * len(images)


def main(photos, out):
  """Extracts what is missing; returns the exit status."""
  out = pathlib.Path(out)
  report = regions.extract_regions(
    sorted(pathlib.Path(photos).iterdir()),
    delf_config_pb2.DelfConfig(image_scales=[1.0], use_local_features=True),
    _Detector(),
    out / "features",
    out / "boxes",
    out / "index_mapping.csv",
    extractor=_Extractor(),
    extract_workers=2,
  )
  return report.exit_status


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
