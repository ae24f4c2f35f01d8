"""A folder of shards, with a record of what they were made of."""

import contextlib
import hashlib
import json
import pathlib

from delf.python import errors, files, folder_lock, line_file
from delf.python.datasets.labelled_records import labels_file

# What the shards are made of; and a line for each that is finished.
SETTINGS = "records.json"
SHARDS = "records_shards.jsonl"
# What is written of the shards when all are there.
_DERIVED = (labels_file.NAME, labels_file.RELABELING)
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
      stack.enter_context(folder_lock.alone(self.folder))
      self._claim()
      self._done = self._read_done()
      path = self.folder / SHARDS
      self._lines = stack.enter_context(line_file.open_to_append(path))
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
    for stale in files.leftovers(self.folder, stems):
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
