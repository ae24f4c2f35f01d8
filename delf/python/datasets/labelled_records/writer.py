"""Writing photos to shards of records, each of which is there whole or not."""

import collections
import dataclasses
import itertools
from concurrent import futures

import numpy as np

from delf.python import errors, files, progress
from delf.python.datasets.labelled_records import (
  framing,
  image_record,
  photo_bytes,
  shard_folder,
  stream,
)

# Photos that each core may be ahead of what is written.
_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of the photos.

  Attributes:
    counts: dict by split of [C] int64, the photos of each label that were
      written; of one that has no labels [1], of all.
    problems: list of (path, reason), photos that were left out.
    resumed: Number of shards that were there.
  """

  counts: dict
  problems: list
  resumed: int


def write(folder, splits, num_shards, num_classes, overwrite=False):
  """Writes `<split>-00000-of-00128` and so on.

  A shard appears when all its photos are in it, so that what a killed run left
  is gone on with. A photo that cannot be read is left out, and reported by each
  run.

  Args:
    folder: Local folder for the shards.
    splits: dict by name (`train`, ...) of a list of photo_list.Photo.
    num_shards: Shards of each split.
    num_classes: Number of classes.
    overwrite: Whether shards of other photos that are there are replaced.

  Returns:
    Report.

  Raises:
    InputError: If the folder has shards of other photos or settings, or another
      run is at it.
    OSError: If a file cannot be written.
  """
  if num_shards < 1:
    raise errors.InputError("num_shards of 1 or more", num_shards)
  with shard_folder.ShardFolder(folder, splits, num_shards, overwrite) as out:
    shards = [
      (split, name, part)
      for split, photos in splits.items()
      for name, part in _shards(split, photos, num_shards)
    ]
    todo = [shard for shard in shards if not out.is_done(shard[1])]
    number = sum(len(part) for *_, part in todo)
    with (
      futures.ThreadPoolExecutor(stream.cores()) as pool,
      progress.count("writing records", number) as bar,
    ):
      for _, name, part in todo:
        out.add(name, *_write_shard(out.folder / name, part, pool, bar))
    resumed = len(shards) - len(todo)
    return _report(out, shards, num_classes, resumed)


def shard_bounds(number, num_shards):
  """Returns where shards start and end in a list, [num_shards + 1] int."""
  return np.linspace(0, number, num_shards + 1).astype(int)


def _shards(split, photos, num_shards):
  bounds = shard_bounds(len(photos), num_shards)
  for i, (start, end) in enumerate(itertools.pairwise(bounds)):
    yield f"{split}-{i:05d}-of-{num_shards:05d}", photos[start:end]


def _write_shard(path, photos, pool, bar):
  """Writes one shard; returns its bytes, and [place, reason] of what is not."""
  skipped = []
  with files.atomic_path(path) as temporary:
    # No writer of TensorFlow's: what it says of a full disk is no OSError.
    with open(temporary, "wb") as file:
      for place, record in enumerate(_ahead(pool, _encode, photos)):
        if isinstance(record, str):
          skipped.append([place, record])
        else:
          file.write(record)
        bar.update(1)
    size = temporary.stat().st_size
  return size, skipped


def _encode(photo):
  """Returns the bytes of a photo's record, or a line that says why not."""
  try:
    data, height, width = photo_bytes.read(photo.path)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{photo.path}: ")
  return framing.pack(image_record.serialize(photo, data, height, width))


def _ahead(pool, function, items):
  """Iterates over the results in order, a bounded number of them ahead."""
  waiting = collections.deque()
  for item in items:
    waiting.append(pool.submit(function, item))
    if len(waiting) > _AHEAD * stream.cores():
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def _report(out, shards, num_classes, resumed):
  counts, problems = {}, []
  for split, name, part in shards:
    skipped = dict(out.skipped(name))
    labels = [
      photo.label or 0
      for place, photo in enumerate(part)
      if place not in skipped
    ]
    size = max(1, num_classes)
    count = np.bincount(np.array(labels, np.int64), minlength=size)
    counts[split] = counts.get(split, 0) + count
    problems += [(part[place].path, why) for place, why in skipped.items()]
  return Report(counts, problems, resumed)
