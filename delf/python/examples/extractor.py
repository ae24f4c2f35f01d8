"""Extraction as a function that returns dictionaries, as in the original."""

from collections.abc import Callable

import numpy as np

from delf.inference import extractor
from delf.protos import delf_config_pb2


def MakeExtractor(config: delf_config_pb2.DelfConfig) -> Callable:
  """Make a function that extracts the features of a configuration.

  Returns:
    Function of an image, [H, W, 3] uint8, and optionally a resize factor, that
    returns a dict with the requested keys:

    - `global_descriptor`: [D] float32; [0] for an image with a side under 10
      pixels;
    - `local_features`: dict of `locations` [N, 2] (y, x) in pixels,
      `descriptors` [N, D], `scales` [N] and `attention` [N], all float32.
  """
  extract = extractor.make_extractor(config).extract

  def ExtractorFn(image, resize_factor=1.0):
    features = extract(image, resize_factor)
    result: dict[str, object] = {}
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
