"""Script that matches two images by their feature files."""

from absl import flags

from delf.cli import scripts
from delf.matching import matcher

FLAGS = flags.FLAGS


def define_flags():
  """Defines the flags; defaults are relative to this folder."""
  flags.DEFINE_string(
    "image_1_path", "test_images/image_1.jpg", "first image, for the picture"
  )
  flags.DEFINE_string(
    "image_2_path", "test_images/image_2.jpg", "second image, for the picture"
  )
  flags.DEFINE_string(
    "features_1_path", "test_features/image_1.delf", "its local features"
  )
  flags.DEFINE_string(
    "features_2_path", "test_features/image_2.delf", "its local features"
  )
  flags.DEFINE_string(
    "output_image",
    "test_match.png",
    "picture of the matches; its extension decides the format",
  )


def main():
  """Matches and draws; images without any match have a picture too."""
  result = matcher.match_feature_files(
    FLAGS.features_1_path,
    FLAGS.features_2_path,
    (FLAGS.image_1_path, FLAGS.image_2_path),
    output=FLAGS.output_image,
    options=matcher.TWO_IMAGES,
  )
  one, two = result.features
  print(  # noqa: T201
    f"{len(one)} and {len(two)} features,"
    f" {len(result.match.putative)} putative matches,"
    f" {result.match.score} inliers ({result.match.min_inliers} make a match)"
  )
  print(f"picture: {result.picture}")  # noqa: T201


if __name__ == "__main__":
  scripts.run(main, define_flags)
