"""Extraction as a function that returns dictionaries."""

import numpy as np

from delf.inference import extractor


def MakeExtractor(config):
  """Make a function that extracts features as a DelfConfig says.

  Returns:
    Function of an image, [H, W, 3] uint8, and optionally a resize factor, that
    returns a dict with the keys that the configuration asks for:

    - `global_descriptor`: [D] float32; [0] for an image that is under 10 pixels
      high or wide;
    - `local_features`: dict of `locations` [N, 2] (y, x) in pixels,
      `descriptors` [N, D], `scales` [N] and `attention` [N], all float32.
  """
  extract = extractor.make_extractor(config).extract

  def ExtractorFn(image, resize_factor=1.0):
    features = extract(image, resize_factor)
    result = {}
    if config.use_global_features:
      descriptor = features.global_descriptor
      if descriptor is None:
        descriptor = np.zeros([0], dtype=np.float32)
      result["global_descriptor"] = descriptor
    if config.use_local_features:
      names = "locations", "descriptors", "scales", "attention"
      result["local_features"] = {n: getattr(features.local, n) for n in names}
    return result

  return ExtractorFn
