"""What became of each image of an extraction."""

import dataclasses
import typing

from delf.python import errors


@dataclasses.dataclass(frozen=True)
class Failure:
  """An image that gave no result: its path, and one line that says why."""

  path: str
  reason: str

  def __str__(self):
    return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class ExtractReport:
  """What became of each image.

  Attributes:
    done: Paths of images whose files were written.
    skipped: Paths of images whose files were there.
    failed: Failure of each image that gave none.
    seconds: Wall-clock time, without loading the model.
    images_per_second: Images done per second.
    device: Words for the device that was used; "" if none was needed.
    interrupted: Whether the user ended the work before its end.
  """

  done: tuple[str, ...] = ()
  skipped: tuple[str, ...] = ()
  failed: tuple[Failure, ...] = ()
  seconds: float = 0.0
  images_per_second: float = 0.0
  device: str = ""
  interrupted: bool = False

  # What was done to an image, in a word.
  _verb: typing.ClassVar[str] = "extracted"

  def summary(self):
    """Returns one line for people."""
    speed = f" ({self.images_per_second:.2f} images/s on {self.device})"
    state = "interrupted: " if self.interrupted else ""
    return (
      f"{state}{len(self.done)} {self._verb},"
      f" {len(self.skipped)} already there, {len(self.failed)} failed"
      f" in {self.seconds:.1f} s{speed if self.done else ''}"
    )

  @property
  def exit_status(self):
    """Exit status of a program that did this."""
    if self.interrupted:
      return errors.INTERRUPTED
    return 1 if self.failed else 0


def say_failures(work, say):
  """Does work on many images for a program; what failed is said in any case.

  Args:
    work: Function that returns a report with `failed`; or raises an OSError
      that has it as `report`, if the work was begun.
    say: Function of a line: called for each image that failed, also before an
      error, as of a full disk.

  Returns:
    The report.
  """
  report = None
  try:
    report = work()
  except OSError as error:
    report = getattr(error, "report", None)
    raise
  finally:
    for failure in report.failed if report else ():
      say(str(failure))
  return report
