import pytest

from delf.base import errors
from delf.downloads import published


def _archives(files):
  return [f.name for f in files if f.kind == published.ARCHIVE]


@pytest.mark.parametrize(
  ("dataset", "splits", "number", "archives"),
  [
    ("roxford5k", (), 3, 1),
    ("rparis6k", (), 4, 2),
    ("revisited-1m", (), 101, 100),
    ("gldv2", ("train",), 505, 500),
    ("gldv2", ("index",), 104, 100),
    ("gldv2", ("test",), 23, 20),
    ("gldv2", ("test", "index"), 127, 120),
  ],
)
def test_files_of_each(dataset, splits, number, archives):
  files = published.files_of(dataset, splits)
  assert len(files) == number
  assert len(_archives(files)) == archives
  assert len({f.name for f in files}) == number
  # What is small comes first.
  assert all(f.kind == published.ARCHIVE for f in files[-archives:])
  for file in files:
    for url in (*file.urls, file.md5_url):
      assert not url or url.startswith(("https://", "http://"))
    assert not file.target.startswith("/") and ".." not in file.target
  without = published.files_of(dataset, splits, images=False)
  assert len(without) == number - archives


def test_addresses_and_places_of_google_landmarks():
  files = published.files_of("gldv2", ("train",), [499, 0, 0])
  assert _archives(files) == ["train/images_000.tar", "train/images_499.tar"]
  site = "https://s3.amazonaws.com/google-landmark"
  assert files[-1].urls == (f"{site}/train/images_499.tar",)
  assert files[-1].md5_url == f"{site}/md5sum/train/md5.images_499.txt"
  assert files[-1].target == "gldv2_dataset/train"
  assert files[0].target == "gldv2_dataset/train/train.csv"
  (part,) = published.files_of("revisited-1m", parts=[7])[1:]
  assert part.urls[0].endswith("/revisitop1m/jpg/revisitop1m.7.tar.gz")


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (("oxford5k",), "a data set is one of roxford5k"),
    (("gldv2",), "--split"),
    (("roxford5k", ("train",)), "--split"),
    (("gldv2", ("validation",)), "train, index, test"),
    (("gldv2", ("test",), [20]), "parts from 0 to 19"),
    (("revisited-1m", (), [0]), "parts from 1 to 100"),
    (("roxford5k", (), [1]), "parts of gldv2"),
  ],
)
def test_what_there_is_not(arguments, words):
  with pytest.raises(errors.InputError, match=words):
    published.files_of(*arguments)
