"""Photos with labels, before they are written to records."""

import dataclasses

from delf.python import errors

# How many names a line about many gives.
_NAMED = 3


# Of Google Landmarks there are four million.
@dataclasses.dataclass(frozen=True, slots=True)
class Photo:
  """One photo.

  Attributes:
    path: Path of its file.
    identity: Its name in the records, such as the id of Google Landmarks.
    label: Class from 0, or None where it is not known.
  """

  path: str
  identity: str
  label: int | None = None


@dataclasses.dataclass(frozen=True)
class PhotoList:
  """Photos of some classes.

  Attributes:
    photos: list of Photo.
    classes: list of str, the name of each label.
    absent: list of str, what was listed and is not there.
    unlisted: list of str, photos that are there, of no known class, and are
      left out.
    old_labels: list of int, the listed label of each label, where they are
      others; else None.
    complete: Whether all that is listed has to be there.
  """

  photos: list
  classes: list
  absent: list = dataclasses.field(default_factory=list)
  unlisted: list = dataclasses.field(default_factory=list)
  old_labels: list | None = None
  complete: bool = True

  def empty_classes(self):
    """Returns the names of classes of which there is no photo."""
    seen = {photo.label for photo in self.photos}
    names = enumerate(self.classes)
    return [name for label, name in names if label not in seen]


def check_not_empty(photos, where):
  """Raises InputError if there are no photos."""
  if not photos:
    raise errors.InputError("photos that are listed", "none", where)


def some(names):
  """Returns words for names of which only the first few are said."""
  more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
  return ", ".join(map(str, names[:_NAMED])) + more
