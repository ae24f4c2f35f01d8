import sys

import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.formats import features
from delf.matching import matcher
from delf.pictures import figures

_GREY = 120


def _photo(height=200, width=300):
  return np.full([height, width, 3], _GREY, np.uint8)


def _read(path):
  with Image.open(path) as image:
    return np.asarray(image.convert("RGB"), np.int16)


def _places(path, score):
  """Returns rows and columns of the pixels in the colour of a score."""
  colour = np.array(figures.COLOURS(score)[:3]) * 255
  rows, columns = np.nonzero(np.abs(_read(path) - colour).max(axis=2) < 3)
  below = rows > 93  # The head line, with the colours, is above.
  return rows[below], columns[below]


def test_a_box_is_where_it_should_be(tmp_path):
  box = [0.25, 0.5, 0.75, 0.9]
  figures.draw_boxes(tmp_path / "a.png", _photo(), [box], [0.3])
  rows, columns = _places(tmp_path / "a.png", 0.3)
  height, width = _read(tmp_path / "a.png").shape[:2]
  # The photo lies between margins of 0.25 inches, and a head and foot of 0.62.
  top, left, size = 93, 37.5, (height - 186, width - 75)
  found = [
    (rows.min() - top) / size[0],
    (columns.min() - left) / size[1],
    (rows.max() - top) / size[0],
    (columns.max() - left) / size[1],
  ]
  np.testing.assert_allclose(found, box, atol=0.01)


def test_the_best_box_is_on_top(tmp_path):
  boxes = np.tile([0.2, 0.2, 0.8, 0.8], [2, 1])
  figures.draw_boxes(tmp_path / "a.png", _photo(), boxes, [0.1, 0.9])
  best, worst = (len(_places(tmp_path / "a.png", s)[0]) for s in (0.9, 0.1))
  # Of the other one the score alone is seen, in a corner of its own.
  assert best > worst > 100


def test_no_boxes(tmp_path):
  figures.draw_boxes(tmp_path / "a.jpg", _photo(), np.zeros([0, 4]), [])
  pixels = _read(tmp_path / "a.jpg")
  assert (np.ptp(pixels, axis=2) < 30).all()


def test_of_many_boxes_some_are_drawn(tmp_path):
  corners = np.random.default_rng(0).random([5000, 2, 2])
  boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
  scores = np.linspace(0, 1, len(boxes))
  most = figures.MAX_BOXES
  figures.draw_boxes(tmp_path / "all.png", _photo(), boxes, scores, "x")
  figures.draw_boxes(
    tmp_path / "best.png",
    _photo(),
    boxes[-most:],
    scores[-most:],
    "x",
    f"the {most} with the highest score",
  )
  np.testing.assert_array_equal(
    _read(tmp_path / "all.png"), _read(tmp_path / "best.png")
  )


def test_scores_above_one_have_colours(tmp_path):
  figures.draw_boxes(
    tmp_path / "a.png", _photo(), np.tile([0, 0, 1, 1], [2, 1]), [7.0, -2.0]
  )
  assert len(_places(tmp_path / "a.png", 1.0)[0])


def test_grey_and_tiny_photos(tmp_path):
  for shape in ((1, 1), (3, 500), (500, 3)):
    path = tmp_path / "a.png"
    figures.draw_boxes(path, np.zeros(shape, np.uint8), [[0, 0, 1, 1]], [1])
    assert min(_read(path).shape[:2]) > 100


@pytest.mark.parametrize(
  ("name", "scores", "words"),
  [
    ("a.doc", [1.0], "picture name"),
    ("a.png", [1.0, 2.0], "each of 1 boxes needs a score"),
  ],
)
def test_what_cannot_be_drawn_leaves_no_file(tmp_path, name, scores, words):
  with pytest.raises(errors.InputError, match=words):
    figures.draw_boxes(tmp_path / name, _photo(), [[0, 0, 1, 1]], scores)
  assert not list(tmp_path.iterdir())


def _features(number, height=200, width=300, seed=0):
  random = np.random.default_rng(seed)
  return features.LocalFeatures(
    locations=random.uniform(0, 1, (number, 2)) * [height - 1, width - 1],
    scales=random.choice([0.7, 1.0, 2.0], number),
    descriptors=random.normal(size=(number, 16)),
    attention=random.uniform(0, 1, number),
  )


def _coloured(picture):
  """Share of the pixels that are neither grey nor white nor text."""
  return (np.ptp(picture, axis=2) > 60).mean()


def _draw(path, some, match=None, photos=None):
  match = match or matcher.match(some, some)
  one, two = photos or (_photo(), _photo())
  figures.draw_matches(path, one, two, some, some, match)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.pdf", "a.svg", "a.webp"])
def test_the_extension_decides_the_format(tmp_path, name):
  _draw(tmp_path / name, _features(40))
  assert [path.name for path in tmp_path.iterdir()] == [name]
  start = (tmp_path / name).read_bytes()[:12]
  magic = {
    "png": b"\x89PNG",
    "JPG": b"\xff\xd8",
    "pdf": b"%PDF",
    "svg": b"<?xml",
    "webp": b"RIFF",
  }
  assert start.startswith(magic[name.partition(".")[2]])


@pytest.mark.parametrize("name", ["a.doc", "a", "a.pgf", "a.raw", "a.ps"])
def test_an_unknown_format_is_refused_and_nothing_written(tmp_path, name):
  with pytest.raises(
    errors.InputError, match="picture name must end in .*, not"
  ):
    _draw(tmp_path / name, _features(40))
  assert not list(tmp_path.iterdir())


def test_lines_are_drawn_between_the_photos(tmp_path):
  _draw(tmp_path / "some.png", _features(40))
  picture = _read(tmp_path / "some.png")
  middle = picture[picture.shape[0] // 2 - 100 :][:200, 870:930]
  assert _coloured(middle) > 0.02


def test_where_nothing_matches_the_picture_has_both_photos(tmp_path):
  none = features.LocalFeatures.empty(16)
  match = matcher.match(none, none)
  _draw(tmp_path / "none.png", none, match, (_photo(), _photo(400, 250)))
  picture = _read(tmp_path / "none.png")
  assert _coloured(picture) == 0
  assert (picture == _GREY).all(axis=2).mean() > 0.5


def test_a_folder_is_no_picture(tmp_path):
  (tmp_path / "a.png").mkdir()
  with pytest.raises(errors.InputError, match="a.png: a folder, not"):
    _draw(tmp_path / "a.png", _features(40))
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.InputError, match="folder to write to"):
    _draw(tmp_path / "file" / "new" / "b.png", _features(40))
  assert {path.name for path in tmp_path.iterdir()} == {"a.png", "file"}


@pytest.mark.parametrize("title", [None, "a long title " * 9, "wide" * 200])
@pytest.mark.parametrize("width", [40, 300, 900])
def test_words_stay_on_the_page(title, width):
  some = _features(500, width=width)
  photos, match = (_photo(width=width),) * 2, matcher.match(some, some)
  drawing = figures._matches_figure(photos, (some, some), match, title)
  heading, caption = (text.get_window_extent() for text in drawing.texts)
  first, _ = (text.get_window_extent() for text in drawing.axes[1].texts)
  assert heading.x1 < first.x0
  assert caption.x1 < drawing.bbox.x1
  photo = drawing.axes[0].get_window_extent()
  assert caption.y0 > 0
  assert caption.y1 < photo.y0
  assert photo.y1 < heading.y0
  assert heading.y1 < drawing.bbox.y1


@pytest.mark.parametrize("title", ["A", "Photos…", "two  words"])
def test_short_titles_are_written_large(title):
  some = _features(50)
  match = matcher.match(some, some)
  drawing = figures._matches_figure((_photo(),) * 2, (some,) * 2, match, title)
  heading = drawing.texts[0]
  assert heading.get_text() == " ".join(title.split())
  assert heading.get_size() == 14


def test_a_photo_of_one_row_leaves_room_for_both(tmp_path):
  row, some = np.full([1, 3000, 3], 9, np.uint8), _features(9, 1, 3000)
  match = matcher.match(some, some)
  figures.draw_matches(tmp_path / "a.png", row, _photo(), some, some, match)
  picture = _read(tmp_path / "a.png")
  shares = [(picture == grey).all(axis=2).mean() for grey in (9, _GREY)]
  assert min(shares) > 0.1


@pytest.mark.parametrize(
  "image",
  [
    np.full([60, 50], 9, np.uint8),
    np.full([60, 50, 4], 9, np.uint8),
    np.full([3000, 10, 3], 9, np.uint8),
    np.full([2, 4000, 3], 9, np.uint8),
  ],
)
def test_unusual_images_are_drawn(tmp_path, image):
  some = _features(12, *image.shape[:2])
  figures.draw_matches(
    tmp_path / "a.png",
    image,
    _photo(),
    some,
    some,
    matcher.match(some, some),
  )
  assert max(_read(tmp_path / "a.png").shape) <= 2000


@pytest.mark.parametrize(
  "image", [np.zeros([5, 5, 3]), np.zeros([5], np.uint8), np.zeros([0, 5, 3])]
)
def test_what_is_no_image_is_refused(tmp_path, image):
  with pytest.raises(errors.InputError, match="image must be uint8"):
    figures.draw_boxes(tmp_path / "a.png", image, [[0, 0, 1, 1]], [1])
  assert not list(tmp_path.iterdir())


def test_no_display_and_no_state_is_used(tmp_path, monkeypatch):
  monkeypatch.delenv("DISPLAY", raising=False)
  monkeypatch.delenv("MPLBACKEND", raising=False)
  monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
  _draw(tmp_path / "a.png", _features(30))
  assert "matplotlib.pyplot" not in sys.modules
