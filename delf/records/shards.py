"""Records of labelled photos, with the names and counts of their classes."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable

import numpy as np

from delf.base import concurrency, errors, files, manifest, progress
from delf.records import photo_list, tfrecord

# What the shards are made of; and a line for each that is finished.
SETTINGS = "records.json"
SHARDS = "records_shards.jsonl"
# What is written of the shards when all exist.
_DERIVED = (photo_list.NAME, photo_list.RELABELING)
_SPLITS = ("train", "validation", "test")

# Photos encoded ahead of the one that is written, per core.
_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of record files."""

  num_shards: int = 128  # Files of each split.
  validation_share: float | None = None  # Of each class.
  seed: int = 0  # Of the split, or of the order where there is none.
  # Whether all is written anew; otherwise a run continues existing shards,
  # which must be of the same photos and options.
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
  """Result of writing records."""

  written: dict[str, int]  # Number of photos of each split.
  labels: photo_list.Labels
  problems: list[tuple[str, str]]  # Path and reason of each that was left out.
  # Whether nothing was left out, and nothing required is missing.
  is_complete: bool


def build(
  folder: str | os.PathLike,
  training: photo_list.PhotoList,
  testing: photo_list.PhotoList | None = None,
  options: Options = Options(),
  say: Callable[[str], object] = print,
) -> Built:
  """Write records, `labels.json` and, for new labels, `relabeling.csv`.

  `<split>-00000-of-00128` and so on appear when all their photos are in them,
  so that a run that was stopped can be repeated. A photo that cannot be read is
  left out, and reported by each run: `say` is called with a line for each, and
  for what is missing. Photos to test with have no labels.

  Raises:
    InputError: If the folder has records of other photos or settings, another
      run is changing it, or an option cannot be.
    OSError: If a file cannot be written.
  """
  splits = _splits(training, testing, options)
  counts, problems = _write(folder, splits, len(training.classes), options)
  labels = photo_list.Labels(
    training.classes,
    {name: count.tolist() for name, count in counts.items() if name != "test"},
  )
  photo_list.write_labels(folder, labels)
  if training.old_labels is not None:
    rows = enumerate(training.old_labels)
    lines = ["new_label,old_label", *(f"{new},{old}" for new, old in rows)]
    path = os.path.join(folder, photo_list.RELABELING)
    files.write_bytes(path, ("\n".join(lines) + "\n").encode())
  for path, reason in problems:
    say(f"{path}: {reason}; left out")
  complete = not problems
  for part in filter(None, (training, testing)):
    _say_missing(part, say)
    complete = complete and not (part.complete and part.absent)
  written = {name: int(each.sum()) for name, each in counts.items()}
  return Built(written, labels, problems, complete)


def _splits(training, testing, options):
  splits = {"train": photo_list.shuffled(training.photos, options.seed)}
  if options.validation_share is not None:
    splits["train"], splits["validation"] = photo_list.train_and_validation(
      training.photos, options.validation_share, options.seed
    )
  if testing is not None:
    splits["test"] = testing.photos
  return splits


def _write(folder, splits, num_classes, options):
  """Write the missing shards.

  Returns, by split, the written photos of each label, [C] int64 ([1], all,
  without labels), and the (path, reason) of each that was left out.
  """
  num_shards = options.num_shards
  if num_shards < 1:
    raise errors.InputError("num_shards of 1 or more", num_shards)
  shards = [
    (split, f"{split}-{i:05d}-of-{num_shards:05d}", photos[start:end])
    for split, photos in splits.items()
    for i, (start, end) in enumerate(
      itertools.pairwise(shard_bounds(len(photos), num_shards))
    )
  ]
  names = [name for _, name, _ in shards]
  with _ShardFolder(folder, splits, names, options).open() as out:
    todo = [shard for shard in shards if not out.is_done(shard[1])]
    number = sum(len(part) for *_, part in todo)
    with progress.count("writing records", number) as bar:
      for _, name, part in todo:
        out.add(name, *_write_shard(out.folder / name, part, bar))
  counts, problems = {}, []
  for split, name, part in shards:
    skipped = out.skipped(name)
    labels = [p.label or 0 for i, p in enumerate(part) if i not in skipped]
    labels = np.array(labels, np.int64)
    count = np.bincount(labels, minlength=max(1, num_classes))
    counts[split] = counts.get(split, 0) + count
    problems += [(part[place].path, why) for place, why in skipped.items()]
  return counts, problems


def shard_bounds(number: int, num_shards: int) -> np.ndarray:
  """Return where shards start and end in a list, [num_shards + 1] int."""
  return np.linspace(0, number, num_shards + 1).astype(int)


def _write_shard(path, photos, bar):
  """Writes one shard; returns bytes, and [place, reason] of each left out."""
  skipped = []
  cores = concurrency.core_count()
  records = concurrency.map_ahead(_encode, photos, cores, _AHEAD * cores)
  # TensorFlow's writer does not raise an OSError for a full disk.
  with (
    contextlib.closing(records),
    files.atomic_path(path) as temporary,
  ):
    with open(temporary, "wb") as file:
      for place, record in enumerate(records):
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
    data, height, width = tfrecord.read_photo_bytes(photo.path)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{photo.path}: ")
  return tfrecord.pack(tfrecord.serialize(photo, data, height, width))


class _ShardFolder:
  """Shards of given photos in a folder, which one run changes at a time.

  Not an `extraction.extract.OutputFolder`: a file is of many photos, and
  the order of all of them decides what is in it.
  """

  def __init__(self, folder, splits, names, options):
    self.folder = files.local_folder(folder)
    self._settings = {
      "num_shards": options.num_shards,
      "photos": {name: len(photos) for name, photos in splits.items()},
      "digest": {name: _digest(photos) for name, photos in splits.items()},
    }
    self._names, self._overwrite = names, options.overwrite

  @contextlib.contextmanager
  def open(self):
    self.folder.mkdir(parents=True, exist_ok=True)
    with files.lock_folder(self.folder):
      self._claim()
      self._journal = manifest.Journal(self.folder / SHARDS)
      with contextlib.closing(self._journal):
        self._done = dict(self._journal.read(_parse))
        yield self

  def is_done(self, name):
    """Whether a shard is as it was written."""
    path = self.folder / name
    size = path.stat().st_size if path.is_file() else None
    return name in self._done and self._done[name][0] == size

  def skipped(self, name):
    """Return the reason of each photo, by place, that a shard lacks."""
    return dict(self._done[name][1])

  def add(self, name, size, skipped):
    """Records a finished shard."""
    self._done[name] = size, skipped
    self._journal.add({"name": name, "bytes": size, "skipped": skipped})

  def _claim(self):
    """Refuses shards of other photos, or removes them; writes the settings."""
    path = self.folder / SETTINGS
    # Of all splits: shards of other photos would be taken for a part of these.
    shards = sorted(
      shard
      for split in _SPLITS
      for shard in self.folder.glob(f"{split}-[0-9]*-of-[0-9]*")
    )
    try:
      found = manifest.read(path)
    except errors.InputError:
      difference = f"a {SETTINGS} that cannot be read"
    else:
      difference = f"shards such as {shards[0].name}" if shards else ""
      if found is not None:
        difference = manifest.difference(found, self._settings)
    if difference and not self._overwrite:
      raise errors.InputError(
        "a folder without shards of other photos or settings, or --overwrite",
        difference,
        self.folder,
      )
    if difference or self._overwrite:
      derived = (self.folder / name for name in (*_DERIVED, SHARDS))
      for stale in (path, *derived, *shards):
        stale.unlink(missing_ok=True)
    stems = [pathlib.Path(SETTINGS).stem, *self._names]
    for stale in files.find_leftovers(self.folder, stems):
      stale.unlink(missing_ok=True)
    manifest.write(path, self._settings)


def _parse(entry):
  skipped = [[int(place), str(reason)] for place, reason in entry["skipped"]]
  return entry["name"], (int(entry["bytes"]), skipped)


def _digest(photos):
  """Returns a hash of the photos' names and labels, in their order."""
  digest = hashlib.sha256()
  for photo in photos:
    digest.update(f"{photo.identity}\n{photo.label}\n".encode(errors="replace"))
  return digest.hexdigest()


def _say_missing(photos, say):
  first_names, absent = photo_list.first_names, photos.absent
  if absent:
    number = len(absent) + len(photos.photos)
    images = f"{len(absent)} of {number} listed images"
    say(f"{images} are not there: {first_names(absent)}")
  if stray := photos.unlisted:
    known = "are there that no class is known of"
    say(f"{len(stray)} images {known}: {first_names(stray)}; left out")
  if empty := photos.empty_classes():
    classes = f"{len(empty)} of {len(photos.classes)} classes"
    say(f"{classes} have no image: {first_names(empty)}")
