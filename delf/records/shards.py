"""Records of labelled photos, with the names and counts of their classes."""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from concurrent import futures

import numpy as np

from delf.base import concurrency, errors, files, progress
from delf.records import image_record, photo_list, tfrecord

# What the shards are made of; and a line for each that is finished.
SETTINGS = "records.json"
SHARDS = "records_shards.jsonl"
# What is written of the shards when all are there.
_DERIVED = (photo_list.NAME, photo_list.RELABELING)
_SPLITS = ("train", "validation", "test")


class ShardFolder:
  """Shards of given photos in a folder, which one run changes at a time."""

  def __init__(self, folder, splits, num_shards, overwrite):
    """Creates it; nothing is written before it is entered.

    Args:
      folder: Local path; need not exist.
      splits: dict by name (train, validation, test) of a list of
        photo_list.Photo.
      num_shards: Shards of each split.
      overwrite: Whether shards that are there are removed.

    Raises:
      InputError: If the folder is not a local one, or is a file.
    """
    if files.is_remote(folder):
      raise errors.InputError("a local folder", "a remote one", folder)
    self.folder = pathlib.Path(folder)
    if self.folder.exists() and not self.folder.is_dir():
      raise errors.InputError("a folder to write to", "a file", folder)
    self._settings = {
      "num_shards": num_shards,
      "photos": {name: len(photos) for name, photos in splits.items()},
      "digest": {name: _digest(photos) for name, photos in splits.items()},
    }
    self._overwrite = overwrite
    self._done = {}
    self._stack = contextlib.ExitStack()

  def __enter__(self):
    self.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      stack.enter_context(files.lock_folder(self.folder))
      self._claim()
      self._done = self._read_done()
      path = self.folder / SHARDS
      self._lines = stack.enter_context(files.open_to_append(path))
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *error):
    return self._stack.__exit__(*error)

  def is_done(self, name):
    """Returns whether a shard is there as it was written."""
    path = self.folder / name
    size = path.stat().st_size if path.is_file() else None
    return name in self._done and self._done[name]["bytes"] == size

  def skipped(self, name):
    """Returns [place, reason] of each photo that a finished shard lacks."""
    return self._done[name]["skipped"]

  def add(self, name, size, skipped):
    """Records that a shard is finished.

    Args:
      name: Of its file.
      size: Its bytes.
      skipped: list of [place among its photos, reason], those it lacks.
    """
    line = {"name": name, "bytes": size, "skipped": skipped}
    self._done[name] = line
    self._lines.write(json.dumps(line).encode() + b"\n")
    self._lines.flush()

  def _claim(self):
    """Sees whether what is there is of the same photos, and says so in a file.

    Raises:
      InputError: If it is not; it names what differs.
    """
    path = self.folder / SETTINGS
    shards = self._shards()
    if path.exists():
      difference = self._difference(path)
    else:
      difference = f"shards such as {shards[0].name}" if shards else None
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
    stems = [pathlib.Path(SETTINGS).stem, *self._names()]
    for stale in files.find_leftovers(self.folder, stems):
      stale.unlink(missing_ok=True)
    text = json.dumps(self._settings, indent=2) + "\n"
    files.write_bytes(path, text.encode())

  def _difference(self, path):
    try:
      found = json.loads(files.read_bytes(path))
      pairs = [(key, found[key], now) for key, now in self._settings.items()]
    except (ValueError, KeyError, TypeError, RecursionError):
      return f"a {SETTINGS} that cannot be read"
    for key, then, now in pairs:
      if then != now and key == "digest":
        return "others, of the same number"
      if then != now:
        return f"others with {key} {json.dumps(then)}, now {json.dumps(now)}"
    return None

  def _shards(self):
    """Returns the paths of shards of any split, whatever their number.

    Of splits that are not written, too: shards of other photos would be taken
    for a part of these.
    """
    return sorted(
      path
      for split in _SPLITS
      for path in self.folder.glob(f"{split}-[0-9]*-of-[0-9]*")
    )

  def _names(self):
    number = self._settings["num_shards"]
    for split in self._settings["photos"]:
      yield from (f"{split}-{i:05d}-of-{number:05d}" for i in range(number))

  def _read_done(self):
    """Returns what is known of each finished shard, by name."""
    path = self.folder / SHARDS
    done = {}
    if path.exists():
      for line in files.read_bytes(path).splitlines():
        # What is cut, as the last line of a killed run, is of no shard.
        with contextlib.suppress(ValueError, KeyError, TypeError):
          entry = json.loads(line)
          done[entry["name"]] = {
            "bytes": int(entry["bytes"]),
            "skipped": [[int(i), str(why)] for i, why in entry["skipped"]],
          }
    return done


def _digest(photos):
  """Returns a number of the photos' names and labels, in their order."""
  digest = hashlib.sha256()
  for photo in photos:
    digest.update(f"{photo.identity}\n{photo.label}\n".encode(errors="replace"))
  return digest.hexdigest()


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
  with ShardFolder(folder, splits, num_shards, overwrite) as out:
    shards = [
      (split, name, part)
      for split, photos in splits.items()
      for name, part in _shards(split, photos, num_shards)
    ]
    todo = [shard for shard in shards if not out.is_done(shard[1])]
    number = sum(len(part) for *_, part in todo)
    with (
      futures.ThreadPoolExecutor(concurrency.core_count()) as pool,
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
    data, height, width = image_record.read_photo_bytes(photo.path)
  except (errors.InputError, OSError) as error:
    return errors.one_line(error).removeprefix(f"{photo.path}: ")
  return tfrecord.pack(image_record.serialize(photo, data, height, width))


def _ahead(pool, function, items):
  """Iterates over the results in order, a bounded number of them ahead."""
  waiting = collections.deque()
  for item in items:
    waiting.append(pool.submit(function, item))
    if len(waiting) > _AHEAD * concurrency.core_count():
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


@dataclasses.dataclass(frozen=True)
class Options:
  """How records are written.

  Attributes:
    num_shards: Files of each split.
    validation_share: Share of each class that is for validation, or None.
    seed: Of the split, or of the order where there is none.
    overwrite: Whether all is written anew; else a run goes on with what is
      there, which has to be of the same photos and options.
  """

  num_shards: int = 128
  validation_share: float | None = None
  seed: int = 0
  overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class Built:
  """What was written.

  Attributes:
    written: dict by split of the number of photos.
    labels: labels_file.Labels.
    problems: list of (path, reason), photos that were left out.
    is_complete: Whether nothing was left out, and nothing is missing that has
      to be there.
  """

  written: dict
  labels: photo_list.Labels
  problems: list
  is_complete: bool


def build(folder, training, testing=None, options=Options(), say=print):
  """Writes records, `labels.json` and, for new labels, `relabeling.csv`.

  Args:
    folder: Local folder to write to. What a run that was ended has left there
      is gone on with.
    training: photo_list.PhotoList, labelled.
    testing: photo_list.PhotoList without labels, or None.
    options: Options.
    say: Function of a line, for each photo that is left out and for what is
      missing.

  Returns:
    Built.

  Raises:
    InputError: If the folder has records of other photos or settings, or an
      option cannot be.
    OSError: If a file cannot be written.
  """
  splits = _splits(training, testing, options)
  report = write(
    folder,
    splits,
    options.num_shards,
    len(training.classes),
    options.overwrite,
  )
  counts = {
    name: count.tolist()
    for name, count in report.counts.items()
    if name != "test"
  }
  labels = photo_list.Labels(training.classes, counts)
  photo_list.write_labels(folder, labels)
  if training.old_labels is not None:
    rows = enumerate(training.old_labels)
    lines = ["new_label,old_label", *(f"{new},{old}" for new, old in rows)]
    path = os.path.join(folder, photo_list.RELABELING)
    files.write_bytes(path, ("\n".join(lines) + "\n").encode())
  for path, reason in report.problems:
    say(f"{path}: {reason}; left out")
  complete = not report.problems
  for part in filter(None, (training, testing)):
    _say_missing(part, say)
    complete = complete and not (part.complete and part.absent)
  written = {name: int(each.sum()) for name, each in report.counts.items()}
  return Built(written, labels, report.problems, complete)


def _splits(training, testing, options):
  splits = {"train": photo_list.shuffled(training.photos, options.seed)}
  if options.validation_share is not None:
    splits["train"], splits["validation"] = photo_list.train_and_validation(
      training.photos, options.validation_share, options.seed
    )
  if testing is not None:
    splits["test"] = testing.photos
  return splits


def _say_missing(photos, say):
  if photos.absent:
    say(
      f"{len(photos.absent)} of {len(photos.absent) + len(photos.photos)}"
      f" listed images are not there: {photo_list.first_names(photos.absent)}"
    )
  if photos.unlisted:
    say(
      f"{len(photos.unlisted)} images are there that no class is known of:"
      f" {photo_list.first_names(photos.unlisted)}; left out"
    )
  empty = photos.empty_classes()
  if empty:
    say(
      f"{len(empty)} of {len(photos.classes)} classes have no image:"
      f" {photo_list.first_names(empty)}"
    )
