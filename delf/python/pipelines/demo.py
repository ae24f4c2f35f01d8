"""Matches sample photos from end to end, through files."""

import dataclasses
import pathlib

from delf.python import files
from delf.python.pipelines import samples

PICTURE = "matches.png"


@dataclasses.dataclass(frozen=True)
class DemoReport:
  """What the demonstration made.

  Attributes:
    photos: samples.SamplePhotos, below `<folder>/photos`.
    features: Paths of the photos' `.delf` files, in that order.
    same: match.MatchResult of the two photos of one scene; `same.picture` is
      the path of the picture.
    different: match.MatchResult of the first and the unrelated photo.
    extraction: extract_report.ExtractReport.
  """

  photos: samples.SamplePhotos
  features: tuple[pathlib.Path, ...]
  same: object
  different: object
  extraction: object

  @property
  def as_expected(self):
    """Whether the same scene matches and the other one does not."""
    return self.same.is_match and not self.different.is_match


def run(folder, model=None, device=None):
  """Writes sample photos, extracts their features, matches and draws them.

  Args:
    folder: Path of a folder, made if need be. What an earlier run left there
      is written anew.
    model: Name of a known model, or path of a SavedModel folder with
      `config.pbtxt`, or None for the embedded one.
    device: Device such as "cpu" or "gpu:1", or None for the best there is.

  Returns:
    DemoReport.

  Raises:
    InputError: If the model does not work.
    OSError: If files cannot be written.
  """
  from delf.python.inference import zoo
  from delf.python.pipelines import extract, match, settings

  folder = pathlib.Path(folder)
  # First what may be wrong: nothing is written for a model that is not there.
  config = settings.choose(model)
  zoo.resolve(config.model_path)
  photos = samples.write_sample_photos(folder / "photos")
  report = extract.extract_to_files(
    photos,
    config,
    folder / "features",
    resume=False,
    strict=True,
    device=device,
  )
  features = tuple(
    folder / "features" / f"{photo.stem}{files.DELF}" for photo in photos
  )
  same = match.match_feature_files(
    *features[:2], photos[:2], output=folder / PICTURE
  )
  different = match.match_feature_files(features[0], features[2])
  return DemoReport(photos, features, same, different, report)
