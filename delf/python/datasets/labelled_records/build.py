"""Records of labelled photos, with the names and counts of their classes."""

import dataclasses
import os

from delf.python import files
from delf.python.datasets.labelled_records import (
  labels_file,
  photo_list,
  split,
  writer,
)


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
  labels: labels_file.Labels
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
  report = writer.write(
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
  labels = labels_file.Labels(training.classes, counts)
  labels_file.write(folder, labels)
  if training.old_labels is not None:
    rows = enumerate(training.old_labels)
    lines = ["new_label,old_label", *(f"{new},{old}" for new, old in rows)]
    path = os.path.join(folder, labels_file.RELABELING)
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
  splits = {"train": split.shuffled(training.photos, options.seed)}
  if options.validation_share is not None:
    splits["train"], splits["validation"] = split.train_and_validation(
      training.photos, options.validation_share, options.seed
    )
  if testing is not None:
    splits["test"] = testing.photos
  return splits


def _say_missing(photos, say):
  if photos.absent:
    say(
      f"{len(photos.absent)} of {len(photos.absent) + len(photos.photos)}"
      f" listed images are not there: {photo_list.some(photos.absent)}"
    )
  if photos.unlisted:
    say(
      f"{len(photos.unlisted)} images are there that no class is known of:"
      f" {photo_list.some(photos.unlisted)}; left out"
    )
  empty = photos.empty_classes()
  if empty:
    say(
      f"{len(empty)} of {len(photos.classes)} classes have no image:"
      f" {photo_list.some(empty)}"
    )
