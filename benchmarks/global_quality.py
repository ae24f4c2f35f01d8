"""Quality of the global descriptor: is the nearest photo one of the same place?

`python -m benchmarks.global_quality` asks it for each held-out photo of the
training photos that has another of its place among them.
"""

import argparse
import pathlib
import sys

import numpy as np

from benchmarks import _matching_sets
from delf.python import errors


def measure(data, name):
  """Prints the number of photos whose nearest is of the same place.

  Args:
    data: Folder with `train_pool` and `train_pool_more`.
    name: Name of a model.
  """
  from delf.python.inference import extractor, zoo
  from delf.python.training.self_supervised import global_head, photos

  folders = [data / pool for pool in ("train_pool", "train_pool_more")]
  _, held_out = photos.split(photos.load(folders))
  config = zoo.default_config(name)
  config.use_local_features, config.use_global_features = False, True
  extract = extractor.make_extractor(config, device="cpu").extract
  descriptors = [extract(p.image).global_descriptor for p in held_out]
  groups = np.array([photo.group for photo in held_out])
  found, number = global_head.recall(np.stack(descriptors), groups)
  print(
    f"{name}: {found} of {number} photos have one of their place as the nearest"
    f" of {len(held_out)}"
  )


def main():
  """Runs the benchmark; returns its exit status."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", default="delf-compact", help="name")
  parser.add_argument("--data", type=pathlib.Path, default=_matching_sets.DATA)
  parser.add_argument("--quick", action="store_true", help="changes nothing")
  args = parser.parse_args()
  if not args.data.exists():
    print(f"no photos with ground truth at {args.data}: nothing measured")
    return 0
  try:
    measure(args.data, args.model)
  except (errors.InputError, OSError) as error:
    print(errors.one_line(error), file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
