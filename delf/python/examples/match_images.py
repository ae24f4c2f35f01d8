"""Match two images by their feature files (script)."""

from delf.api import model
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define
from delf.matching import matcher


def define_flags() -> None:
  """Define the flags; defaults are relative to this folder."""
  help = "First image, for the picture."
  define("image_1_path", "test_images/image_1.jpg", help)
  help = "Second image, for the picture."
  define("image_2_path", "test_images/image_2.jpg", help)
  define("features_1_path", "test_features/image_1.delf", "Its local features.")
  define("features_2_path", "test_features/image_2.delf", "Its local features.")
  help = "Picture of the matches; its extension sets the format."
  define("output_image", "test_match.png", help)


def main() -> None:
  """Match and draw; images without matches get a picture too."""
  match = model.match_sides(
    (FLAGS.features_1_path, FLAGS.features_2_path),
    matcher.TWO_IMAGES,
    images=(FLAGS.image_1_path, FLAGS.image_2_path),
    out=FLAGS.output_image,
  )
  one, two = (len(each.local or ()) for each in match.features or ())
  print(  # noqa: T201
    f"{one} and {two} features, {len(match.putative)} putative matches,"
    f" {match.score} inliers ({match.min_inliers} make a match)"
  )
  print(f"picture: {match.picture}")  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
