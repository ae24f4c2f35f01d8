import base64
import collections
import html.parser
import io
import itertools
import pathlib
import re
import subprocess
import sys
import tracemalloc
import types

import numpy as np
import pytest
from PIL import Image

from delf.base import errors
from delf.formats import features
from delf.pictures import results_page

_HOSTILE = '<img src=x onerror="document.title=1">&"\'</script>\u202e%%STYLE%%'
_VOID = {"meta", "link", "input", "img", "br"}


class _Page(html.parser.HTMLParser):
  """Elements of a page: [(name, attributes)], and the text of each name."""

  def __init__(self, path):
    super().__init__(convert_charrefs=True)
    self.elements, self.open, self.texts = [], [], collections.defaultdict(str)
    self.source = pathlib.Path(path).read_text(encoding="utf-8")
    self.feed(self.source)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts[self.open[-1] if self.open else ""] += data

  def all(self, tag, **wanted):
    return [
      attributes
      for name, attributes in self.elements
      if name == tag
      and all(attributes.get(k) == value for k, value in wanted.items())
    ]

  def photos(self):
    held = re.findall(
      r'<script type="text/plain" id="t(\d+)">([\w+/=]+)</script>', self.source
    )
    return {
      int(number): Image.open(io.BytesIO(base64.b64decode(data)))
      for number, data in held
    }


def _photo(folder, name="a.jpg", width=300, height=200, seed=0):
  path = folder / name
  random = np.random.default_rng(seed)
  small = random.integers(0, 255, (5, 7, 3), np.uint8)
  Image.fromarray(small).resize((width, height)).save(path)
  return path


def _query(path, results, **options):
  return results_page.Query("asked", path, tuple(results), **options)


def _write(folder, queries, *arguments, **options):
  path = folder / "page.html"
  report = results_page.write(path, "Title", queries, *arguments, **options)
  return report, _Page(path)


def test_each_query_has_its_results_in_rank_order(tmp_path):
  photo = _photo(tmp_path)
  results = [
    results_page.Result("first", photo, 12.34567, 12, results_page.TRUE),
    results_page.Result("second", photo, 3, 1, results_page.JUNK),
    results_page.Result("third", photo, float("nan"), 0, results_page.FALSE),
    results_page.Result("fourth", photo, 0.5),
  ]
  query = _query(photo, results, note="AP 0.5")
  report, page = _write(tmp_path, [query, query])
  assert (report.queries, report.results) == (2, 8)
  assert [each["id"] for each in page.all("section")] == ["q1", "q2"]
  assert [each["class"] for each in page.all("li")][:4] == [
    "true", "junk", "false", "",
  ]  # fmt: skip
  assert [each["title"] for each in page.all("button") if "title" in each][
    :4
  ] == ["first", "second", "third", "fourth"]
  assert page.texts["i"] == "1234" * 2
  # Words, not colours alone.
  assert page.texts["b"] == "✓ true○ junk✗ false" * 2
  for words in ("12 inliersscore 12.35", "1 inlierscore 3", "score –",
                "AP 0.5", "fourth"):  # fmt: skip
    assert words in "".join(page.texts[tag] for tag in ("span", "p", "bdi"))


def test_scores_stay_short():
  texts = [
    results_page._score_text(value) for value in (0.36281, -0.0059312, 70.0)
  ]
  assert texts == ["0.3628", "-0.00593", "70"]


def test_junk_does_not_count_as_the_first_result(tmp_path):
  def first(*labels):
    results = [
      results_page.Result("a", None, 1, label=label) for label in labels
    ]
    _, page = _write(tmp_path, [_query(None, results)])
    return page.all("section")[0]["data-first"]

  assert (
    first(results_page.JUNK, results_page.FALSE, results_page.TRUE) == "false"
  )
  assert first(results_page.TRUE, results_page.FALSE) == "true"
  assert first(None) == first() == first(results_page.JUNK) == ""


def test_each_photo_is_held_once(tmp_path):
  one, two = _photo(tmp_path, "1.jpg"), _photo(tmp_path, "2.png", seed=1)
  results = [results_page.Result("r", path, 1) for path in (one, str(two), one)]
  report, page = _write(tmp_path, [_query(one, results)] * 3)
  assert report.photos == len(page.photos()) == 2
  assert [each["data-t"] for each in page.all("img")] == [
    "0",
    "0",
    "1",
    "0",
  ] * 3


def test_copies_are_small_once_there_are_many(tmp_path):
  photo = _photo(tmp_path, width=1200, height=600)
  options = results_page.Options(side=100, large_side=400, large_bytes=1)
  other = _photo(tmp_path, "b.jpg", width=40, height=900, seed=2)
  tiny = _photo(tmp_path, "c.jpg", width=20, height=1, seed=2)
  results = [results_page.Result("r", path, 1) for path in (other, tiny)]
  _, page = _write(tmp_path, [_query(photo, results)], options=options)
  sizes = [copy.size for _, copy in sorted(page.photos().items())]
  assert sizes == [(400, 200), (4, 100), (20, 1)]
  shown = [(each["width"], each["height"]) for each in page.all("img")]
  assert shown == [("1200", "600"), ("40", "900"), ("20", "1")]
  copy = np.asarray(page.photos()[0].convert("RGB"), np.float32)
  with Image.open(photo) as whole:
    expected = np.asarray(whole.resize((400, 200)), np.float32)
  assert np.abs(copy - expected).mean() < 3


def test_photos_are_turned_only_if_asked(tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6
  path = tmp_path / "turned.jpg"
  Image.new("RGB", (300, 100)).save(path, exif=exif)
  for turned, size in ((False, ("300", "100")), (True, ("100", "300"))):
    options = results_page.Options(apply_rotation=turned)
    _, page = _write(tmp_path, [_query(path, [])], options=options)
    (image,) = page.all("img")
    assert (image["width"], image["height"]) == size


def test_a_photo_that_cannot_be_read_is_shown_as_missing(tmp_path):
  (tmp_path / "broken.jpg").write_bytes(b"no photo")
  results = [
    results_page.Result(
      "gone", tmp_path / "gone.jpg", 1, 20, lines=np.ones([3, 4])
    ),
    results_page.Result("broken", tmp_path / "broken.jpg", 1),
    results_page.Result("none", None, 1),
    results_page.Result("gone", tmp_path / "gone.jpg", 1),
  ]
  report, page = _write(tmp_path, [_query(_photo(tmp_path), results)])
  assert len(report.problems) == 2
  assert "gone.jpg" in report.problems[0]
  assert "broken.jpg: not an image" in report.problems[1]
  assert len(page.all("span", **{"class": "missing"})) == 4
  assert not [each for each in page.all("button") if "data-l" in each]


def test_names_are_only_names(tmp_path):
  hostile = _photo(tmp_path, "<img src=x onerror=alert(1)>.jpg")
  result = results_page.Result(_HOSTILE, hostile, 1)
  query = results_page.Query(_HOSTILE, hostile, (result,), note=_HOSTILE)
  table = results_page.Table(_HOSTILE, ("a", _HOSTILE), ((_HOSTILE, _HOSTILE),))
  curve = results_page.Curve(_HOSTILE, [0, 1], [1, 0])
  shown = results_page.Evaluation((table,), (curve,), _HOSTILE)
  path = tmp_path / "page.html"
  results_page.write(path, _HOSTILE, [query], shown)
  page = _Page(path)
  assert not [each for _, each in page.elements if "onerror" in each]
  assert all("data-t" in each for each in page.all("img"))
  assert len(page.all("style")) == 1
  assert [each.get("type") for each in page.all("script")] == [
    "text/plain",
    None,
  ]
  assert page.texts["title"] == page.texts["h1"] == _HOSTILE
  assert page.texts["caption"] == page.texts["td"] == _HOSTILE
  assert page.all("section", **{"data-name": _HOSTILE})


def test_names_that_are_no_unicode_are_shown(tmp_path):
  _, page = _write(tmp_path, [results_page.Query("caf\udce9", None, ())])
  assert page.all("section")[0]["data-name"] == r"caf\udce9"


def test_the_page_needs_nothing_else(tmp_path):
  _, page = _write(tmp_path, [_query(_photo(tmp_path), [])])
  for _, attributes in page.elements:
    assert "src" not in attributes
    assert "style" not in attributes
    assert attributes.get("href", "#").startswith(("#", "data:"))
    assert not [name for name in attributes if name.startswith("on")]
  # But for the name of a format, no address.
  addresses = re.findall(r"\w+://[^\s\"']+", page.source)
  assert set(addresses) == {"http://www.w3.org/2000/svg"}
  (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
  assert policy["content"].startswith("default-src 'none'; img-src data:;")
  assert "unsafe" not in policy["content"]


def test_lines_are_shares_of_the_photos(tmp_path):
  one = _photo(tmp_path, "1.jpg", 300, 200)
  two = _photo(tmp_path, "2.jpg", 100, 400)
  lines = np.array([[-0.5, -0.5, 99.5, 399.5], [149.5, 99.5, 49.5, 99.5]])
  many = np.random.default_rng(0).uniform(0, 100, (500, 4))
  results = [results_page.Result("r", two, 1, 2, lines=each)
             for each in (lines, np.zeros([0, 4]), many)]  # fmt: skip
  _, page = _write(tmp_path, [_query(one, results)])
  found = [
    np.frombuffer(base64.b64decode(each["data-l"]), "<u2").reshape(-1, 4)
    for each in page.all("button")
    if "data-l" in each
  ]
  shares = found[0] / 65535
  np.testing.assert_allclose(
    shares, [[0, 0, 1, 1], [0.5, 0.5, 0.5, 0.25]], atol=1e-5
  )
  assert [len(each) for each in found] == [2, 0, 100]


def test_lines_of_a_match_are_in_pixels_of_the_whole_photo():
  locations = np.arange(12).reshape(6, 2)
  some = features.LocalFeatures(
    locations, np.ones(6), np.ones([6, 1]), np.ones(6)
  )
  # What it uses of a matching.Match.
  match = types.SimpleNamespace(
    inliers=np.array([[1, 2], [3, 0]], np.int32), strengths=np.array([0.9, 0.1])
  )
  lines = results_page.match_lines(some, some, match, offset=(100, 20))
  assert lines.tolist() == [[27, 106, 1, 0], [23, 102, 5, 4]]
  nothing = types.SimpleNamespace(
    inliers=np.zeros([0, 2], np.int32), strengths=np.zeros(0)
  )
  none = features.LocalFeatures.empty()
  assert results_page.match_lines(none, some, nothing).shape == (0, 4)


@pytest.mark.parametrize(
  ("box", "frame"),
  [
    ((30, 20, 900, 120), ("30.0", "20.0", "270.0", "100.0")),
    ((0, 0, 300, 200), None),
    (None, None),
  ],
)
def test_the_part_that_was_asked_for_is_framed(tmp_path, box, frame):
  _, page = _write(tmp_path, [_query(_photo(tmp_path), [], box=box)])
  frames = [
    tuple(each[name] for name in ("x", "y", "width", "height"))
    for each in page.all("rect")
  ]
  assert frames == ([frame] if frame else [])


def test_an_evaluation_comes_first(tmp_path):
  table = results_page.Table(
    "Metrics", ("protocol", "mAP", "queries"), (("easy", 12.345, 70),
    ("hard", None, 9), ("none", float("nan"), 0))
  )  # fmt: skip
  curves = tuple(
    results_page.Curve(name, np.linspace(0, 1, 1001), np.linspace(1, 0, 1001))
    for name in ("easy", "hard")
  )
  shown = results_page.Evaluation((table,), curves, "model\n  abc\n")
  _, page = _write(tmp_path, [_query(None, [])], shown)
  assert [each["id"] for each in page.all("section")] == ["evaluation", "q1"]
  assert page.texts["td"] == "12.3570–9–0"
  assert page.texts["pre"] == "model\n  abc"
  lines = [each["points"].split() for each in page.all("polyline")]
  assert len(lines) == 2
  assert len(lines[0]) <= 400
  assert (lines[0][0], lines[0][-1]) == ("48.0,12.0", "404.0,272.0")


def test_each_query_is_written_before_the_next_is_asked_for(tmp_path):
  happened = []

  class Results(tuple):
    def __iter__(self):
      happened.append("read")
      return super().__iter__()

  def queries():
    for _ in range(3):
      happened.append("asked for")
      yield results_page.Query("q", None, Results())

  _write(tmp_path, queries())
  order = [happened[0]]
  order += [b for a, b in itertools.pairwise(happened) if a != b]
  assert order == ["asked for", "read"] * 3


def test_memory_does_not_grow_with_the_page(tmp_path):
  photo = _photo(tmp_path)
  lines = np.random.default_rng(0).uniform(0, 200, (300, 4))

  def peak(number):
    queries = (
      _query(photo, [results_page.Result("r", photo, 1, 9, lines=lines)] * 20)
      for _ in range(number)
    )
    tracemalloc.start()
    report = results_page.write(tmp_path / "page.html", "T", queries)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, report.size

  peak(1)
  few, many = peak(4), peak(80)
  assert many[1] > few[1] + 1_500_000
  assert many[0] < few[0] + 300_000


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / "page.html"
  path.write_text("the last one")

  def queries():
    yield _query(None, [])
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    results_page.write(path, "T", queries())
  assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
  assert path.read_text() == "the last one"


def test_the_same_content_gives_the_same_page(tmp_path):
  query = _query(_photo(tmp_path), [])
  _, one = _write(tmp_path, [query])
  _, two = _write(tmp_path, [query])
  assert one.source == two.source


@pytest.mark.parametrize("name", ["page.png", "page", "folder.html"])
def test_a_name_that_no_page_can_have_is_refused(tmp_path, name):
  (tmp_path / "folder.html").mkdir()
  with pytest.raises(errors.InputError):
    results_page.write(tmp_path / name, "T", [])
  assert [each.name for each in tmp_path.iterdir()] == ["folder.html"]


@pytest.mark.parametrize(
  "make",
  [
    lambda: results_page.Result("r", None, 1, label="good"),
    lambda: results_page.Result("r", None, 1, lines=np.ones([3, 2])),
    lambda: results_page.Result("r", None, 1, lines=np.full([3, 4], np.nan)),
    lambda: results_page.Query("q", None, (), box=(1, 2, 3)),
    lambda: results_page.Query("q", None, (), box=(1, 2, 3, np.inf)),
    lambda: results_page.Table("t", ("a",), ((1, 2),)),
    lambda: results_page.Curve("c", [0, 1], [0.5, 1.5]),
    lambda: results_page.Curve("c", [1, 0], [0.5, 0.5]),
    lambda: results_page.Curve("c", [0, 1], [np.nan, 0]),
  ],
)
def test_content_that_cannot_be_right_is_refused(make):
  with pytest.raises(errors.InputError):
    make()


def test_an_empty_page_is_a_page(tmp_path):
  report, page = _write(tmp_path, [])
  assert report.queries == 0
  assert not page.all("section")


def test_lines_are_capped_and_spread():
  random = np.random.default_rng(0)
  points = random.uniform(0, 1, (5000, 2))
  points[:4000] *= 0.1  # A crowd of strong ones in a corner.
  strengths = np.where(np.arange(5000) < 4000, 0.9, 0.3).astype(np.float32)
  chosen = results_page.spread_lines(points, strengths, 1.0)
  assert len(chosen) == len(set(chosen.tolist())) == results_page.MAX_LINES
  assert (chosen >= 4000).sum() > 50


def test_pages_and_searches_do_not_load_matplotlib():
  code = (
    "import sys; from delf.pictures import results_page; "
    "from delf.search import searching; "
    "assert 'matplotlib' not in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
