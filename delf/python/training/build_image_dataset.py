r"""Write photos and their classes to TFRecords for training.

Google Landmarks, with a fifth of the photos for validation:

  python delf/python/training/build_image_dataset.py \
    --train_directory='gldv2_dataset/train/*/*/*/' \
    --train_csv_path=gldv2_dataset/train/train.csv \
    --train_clean_csv_path=gldv2_dataset/train/train_clean.csv \
    --output_directory=gldv2_dataset/tfrecord/ --num_shards=128 \
    --generate_train_validation_splits --validation_split_size=0.2

Other photos, in a folder for each class:

  python delf/python/training/build_image_dataset.py \
    --class_folders=photos/ --output_directory=records/ --num_shards=4 \
    --generate_train_validation_splits

or with a CSV file that has an image and its class in each row:

  python delf/python/training/build_image_dataset.py \
    --images_csv_path=photos.csv --images_directory=photos/ \
    --output_directory=records/ --num_shards=4

The same command resumes a stopped run. Photos that cannot be read are left out
and reported, and the exit status is 1. After mending them, use --overwrite.
"""

from delf.base import errors
from delf.cli import scripts
from delf.cli.scripts import FLAGS, define

_TRAIN_SOURCES = ("class_folders", "images_csv_path")


def define_flags() -> None:
  """Define the flags."""
  help = "Folder of training photos, or a pattern of folders: train/*/*/*/."
  define("train_directory", "/tmp/", help)
  define("test_directory", None, "The same for test photos.")
  define("output_directory", "/tmp/", "Folder for the TFRecords.")
  define("train_csv_path", "/tmp/train.csv", "CSV: id,url,landmark_id")
  define(
    "train_clean_csv_path",
    None,
    "CSV: landmark_id,images. Only these images are written, with labels from"
    " 0; relabeling.csv translates them.",
  )
  define("test_csv_path", None, "CSV with a column id.")
  define("num_shards", 128, "Number of files of each split.", lower_bound=1)
  help = "Whether to write a share of each class to files for validation."
  define("generate_train_validation_splits", False, help)
  define("validation_split_size", 0.2, "Share for validation.")
  define("seed", 0, "Seed of the split and the order.", lower_bound=0)
  help = (
    "Folder with a folder of photos for each class; replaces train_directory."
  )
  define("class_folders", None, help)
  define(
    "images_csv_path",
    None,
    "CSV with a column of images (image, path, filename, ...) and one of"
    " classes (label, class, landmark_id, ...); replaces train_directory.",
  )
  help = "Folder of these images, by default that of the CSV."
  define("images_directory", None, help)
  define("overwrite", False, "Whether to start anew, not resume.")


def main() -> int:
  """Write the TFRecords; return 1 if a photo is missing or was left out."""
  from delf.records import photo_list, shards

  own = [name for name in _TRAIN_SOURCES if FLAGS[name].value]
  if len(own) > 1:
    raise errors.InputError(f"give --{own[0]} or --{own[1]}, not both")
  split = FLAGS.generate_train_validation_splits
  share = FLAGS.validation_split_size if split else None
  options = shards.Options(FLAGS.num_shards, share, FLAGS.seed, FLAGS.overwrite)
  training, test = _training(), None
  if FLAGS.test_directory is not None:
    test = photo_list.list_test(FLAGS.test_directory, FLAGS.test_csv_path)
  built = shards.build(
    FLAGS.output_directory, training, test, options, scripts.print_problem
  )
  for split, number in built.written.items():
    print(f"{split}: {number} photos")  # noqa: T201
  return 0 if built.is_complete else 1


def _training():
  """Return the PhotoList of the training photos."""
  from delf.records import photo_list

  if FLAGS.class_folders:
    return photo_list.list_folders(FLAGS.class_folders)
  if FLAGS.images_csv_path:
    return photo_list.list_csv(FLAGS.images_csv_path, FLAGS.images_directory)
  if FLAGS.train_clean_csv_path:
    return photo_list.list_clean(
      FLAGS.train_directory, FLAGS.train_clean_csv_path
    )
  return photo_list.list_train(FLAGS.train_directory, FLAGS.train_csv_path)


if __name__ == "__main__":
  scripts.run(main, define_flags)
