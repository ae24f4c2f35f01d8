"""What became of each photo of an extraction of regions."""

import dataclasses

from delf.python import errors
from delf.python.pipelines import extract_report


@dataclasses.dataclass(frozen=True)
class RegionReport:
  """What became of each photo.

  Attributes:
    done: Names of photos of which something was extracted.
    skipped: Names of photos all of whose files were there.
    failed: extract_report.Failure of each photo, or region, that gave none.
    files: Names of all regions that have features, whole images among them, of
      photos that were skipped too.
    seconds: Wall-clock time, without loading models.
    interrupted: Whether the user ended the work before its end.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[extract_report.Failure, ...] = ()
  files: tuple[str, ...] = ()
  seconds: float = 0.0
  interrupted: bool = False

  @property
  def regions(self):
    """Number of regions that have features, whole images among them."""
    return len(self.files)

  def summary(self):
    """Returns one line for people."""
    state = "interrupted: " if self.interrupted else ""
    images = max(1, len(self.done) + len(self.skipped))
    return (
      f"{state}{len(self.done)} images extracted, {len(self.skipped)} already"
      f" there, {len(self.failed)} failed in {self.seconds:.1f} s;"
      f" {self.regions} regions ({self.regions / images:.1f} an image)"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.interrupted:
      return errors.INTERRUPTED
    return 1 if self.failed else 0
