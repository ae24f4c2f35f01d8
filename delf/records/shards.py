"""Records of labelled photos, with the names and counts of their classes."""

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable

import numpy as np

from delf.base import concurrency, errors, files, manifest, progress
from delf.records import photo_list, tfrecord

# Settings of the shards, and a line for each finished shard.
SETTINGS = "records.json"
SHARDS = "records_shards.jsonl"
# Files that are written when all shards exist.
_DERIVED = (photo_list.NAME, photo_list.RELABELING)
_SPLITS = ("train", "validation", "test")

# Photos that are encoded ahead of the writer, per core.
_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of record files."""

  num_shards: int = 128  # Files per split.
  validation_share: float | None = None  # Of each class.
  seed: int = 0  # Of the split, or of the order without a split.
  # Replace all shards; else existing ones of the same photos are resumed.
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
  """Result of writing records."""

  written: dict[str, int]  # Number of photos of each split.
  labels: photo_list.Labels
  problems: list[tuple[str, str]]  # Path and reason of each skipped photo.
  # Whether no photo was skipped, and no required photo is missing.
  is_complete: bool


def build(
  folder: str | os.PathLike,
  training: photo_list.PhotoList,
  testing: photo_list.PhotoList | None = None,
  options: Options = Options(),
  say: Callable[[str], object] = print,
) -> Built:
  """Write records, `labels.json` and, for new labels, `relabeling.csv`.

  Shards, `<split>-00000-of-00128` and so on, appear when complete, so that a
  run that was stopped can be resumed. Photos that cannot be read are skipped;
  each run reports them, and missing photos, by calling `say` with a line.
  Test photos have no labels. InputError is raised if the folder has records of
  other photos or settings, or if another run is changing it.
  """
  splits = {"train": photo_list.shuffled(training.photos, options.seed)}
  if options.validation_share is not None:
    splits["train"], splits["validation"] = photo_list.train_and_validation(
      training.photos, options.validation_share, options.seed
    )
  if testing is not None:
    splits["test"] = testing.photos
  shards = _list_shards(splits, options.num_shards)
  done = _write(folder, splits, shards, options)
  counts, problems = _count(shards, done, len(training.classes))
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
    say(f"{path}: {reason}; skipped")
  complete = not problems
  for part in filter(None, (training, testing)):
    _say_missing(part, say)
    complete = complete and not (part.complete and part.absent)
  written = {name: int(each.sum()) for name, each in counts.items()}
  return Built(written, labels, problems, complete)


def _list_shards(splits, number):
  """Return split, name and photos of each shard."""
  if number < 1:
    raise errors.InputError(f"num_shards must be 1 or more, not {number}")
  return [
    (split, f"{split}-{i:05d}-of-{number:05d}", photos[start:end])
    for split, photos in splits.items()
    for i, (start, end) in enumerate(
      itertools.pairwise(shard_bounds(len(photos), number))
    )
  ]


def _write(folder, splits, shards, options):
  """Write missing shards; return size, and (index, reason) of bad photos."""
  folder = files.local_folder(folder)
  settings = {
    "num_shards": options.num_shards,
    "photos": {name: len(photos) for name, photos in splits.items()},
    "digest": {name: _digest(photos) for name, photos in splits.items()},
  }
  names = [name for _, name, _ in shards]
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as stack:
    stack.enter_context(files.lock_folder(folder))
    _claim(folder, settings, names, options.overwrite)
    journal = manifest.Journal(folder / SHARDS)
    stack.callback(journal.close)
    done = dict(journal.read(_parse))
    todo = [
      (name, part)
      for _, name, part in shards
      if name not in done
      or not (path := folder / name).is_file()
      or done[name][0] != path.stat().st_size
    ]
    number = sum(len(part) for _, part in todo)
    bar = stack.enter_context(progress.count("writing records", number))
    for name, part in todo:
      size, skipped = done[name] = _write_shard(folder / name, part, bar)
      journal.add({"name": name, "bytes": size, "skipped": skipped})
  return done


def _count(shards, done, num_classes):
  """Count the written photos of each label, and list skipped ones.

  Returns, by split, [C] int64 ([1] without labels), and (path, reason).
  """
  counts: dict[str, np.ndarray] = {}
  problems, size = [], max(1, num_classes)
  for split, name, part in shards:
    skipped = dict(done[name][1])
    labels = [p.label or 0 for i, p in enumerate(part) if i not in skipped]
    count = np.bincount(np.array(labels, np.int64), minlength=size)
    counts[split] = counts.get(split, 0) + count
    problems += [(part[place].path, why) for place, why in skipped.items()]
  return counts, problems


def shard_bounds(number: int, num_shards: int) -> np.ndarray:
  """Return the bounds of shards in a list, [num_shards + 1] int."""
  return np.linspace(0, number, num_shards + 1).astype(int)


def _write_shard(path, photos, bar):
  """Write one shard; return bytes, and [index, reason] of skipped photos."""
  skipped = []
  cores = concurrency.core_count()
  records = concurrency.map_ahead(_encode, photos, cores, _AHEAD * cores)
  # TensorFlow's writer does not raise an OSError for a full disk.
  with (
    contextlib.closing(records),  # type: ignore[type-var]
    files.atomic_path(path) as temporary,
    open(temporary, "wb") as file,
  ):
    for place, record in enumerate(records):
      if isinstance(record, str):
        skipped.append([place, record])
      else:
        file.write(record)
      bar.update(1)
    return file.tell(), skipped


def _encode(photo):
  """Return the bytes of a photo's record, or the reason of a failure."""
  try:
    data, height, width = tfrecord.read_photo_bytes(photo.path)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{photo.path}: ")
  return tfrecord.pack(tfrecord.serialize(photo, data, height, width))


def _claim(folder, settings, names, overwrite):
  """Refuse shards of other photos, or remove them; write the settings.

  This is not an `extraction` run, since each file has many photos, in order.
  """
  path = folder / SETTINGS
  # Of all splits, since readers would mix them with the new ones.
  patterns = [f"{split}-[0-9]*-of-[0-9]*" for split in _SPLITS]
  shards = sorted(itertools.chain(*map(folder.glob, patterns)))
  try:
    existing = manifest.read(path)
  except errors.InputError:
    difference = f"a {SETTINGS} that cannot be read"
  else:
    difference = f"shards such as {shards[0].name}" if shards else ""
    if existing is not None:
      difference = manifest.difference(existing, settings)
  if difference and not overwrite:
    text = f"the folder has shards of other photos or settings: {difference}"
    raise errors.InputError(f"{text}; --overwrite replaces them", path=folder)
  if difference or overwrite:
    derived = (folder / name for name in (*_DERIVED, SHARDS))
    for stale in (path, *derived, *shards):
      stale.unlink(missing_ok=True)
  for stale in files.find_leftovers(folder, [path.stem, *names]):
    stale.unlink(missing_ok=True)
  manifest.write(path, settings)


def _parse(entry):
  skipped = [[int(place), str(reason)] for place, reason in entry["skipped"]]
  return entry["name"], (int(entry["bytes"]), skipped)


def _digest(photos):
  digest = hashlib.sha256()
  for photo in photos:
    digest.update(f"{photo.identity}\n{photo.label}\n".encode(errors="replace"))
  return digest.hexdigest()


def _say_missing(photos, say):
  first_names, absent = photo_list.first_names, photos.absent
  if absent:
    number = len(absent) + len(photos.photos)
    images = f"{len(absent)} of {number} listed images"
    say(f"{images} are missing: {first_names(absent)}")
  if stray := photos.unlisted:
    say(f"{len(stray)} images have no class: {first_names(stray)}; skipped")
  seen = {photo.label for photo in photos.photos}
  if empty := [n for i, n in enumerate(photos.classes) if i not in seen]:
    classes = f"{len(empty)} of {len(photos.classes)} classes"
    say(f"{classes} have no image: {first_names(empty)}")
