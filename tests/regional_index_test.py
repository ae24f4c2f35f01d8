"""`delf index --regions` and searches in it, with models of no training."""

import json

import numpy as np
import PIL.Image
import pytest

from delf.aggregation import visual_words
from delf.cli import main
from delf.embedded import samples
from tests.stand_ins import tiny_model

_SIZE = (200, 160)  # Width and height; a box is 0.6 of each.
_NAMES = ("a", "b", "sub/c")
# The right lower box of the sample detector, in pixels.
_BOX = (80, 64, 200, 160)


def _photo(seed):
  """Returns a photo whose quarters have colours of their own."""
  generator = np.random.default_rng(seed)
  quarters = generator.integers(0, 256, [4, 5, 3]).astype(np.uint8)
  smooth = PIL.Image.fromarray(quarters).resize(_SIZE, PIL.Image.BICUBIC)
  noise = generator.integers(-30, 30, [_SIZE[1], _SIZE[0], 1])
  pixels = np.clip(np.asarray(smooth, np.int64) + noise, 0, 255)
  return PIL.Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """Folder with photos, a model, a detector, a codebook and an index."""
  folder = tmp_path_factory.mktemp("inputs")
  for seed, name in enumerate(_NAMES):
    path = folder / "photos" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _photo(seed).save(path)
  tiny_model.save(folder / "model")
  samples.write_detector(folder / "detector")
  centers = np.random.default_rng(0).standard_normal([16, 8])
  visual_words.write_codebook(folder / "words", np.float32(centers))
  assert not _index(folder, folder / "my.index", folder / "photos")
  return folder


def _index(inputs, out, *sources, regions=True):
  options = ["--config", inputs / "model" / "config.pbtxt"]
  options += ["--codebook", inputs / "words"]
  if regions:
    options += ["--regions", "--detector", inputs / "detector"]
  return main.main(list(map(str, ["index", *sources, "--out", out, *options])))


def _search(inputs, capsys, name, *options, index="my.index"):
  capsys.readouterr()
  photo = inputs / "photos" / f"{name}.png"
  arguments = ["search", inputs / index, photo, "--json", *options]
  assert not main.main(list(map(str, arguments)))
  (found,) = json.loads(capsys.readouterr().out)["queries"]
  return found["results"]


_BOX_WORDS = ",".join(map(str, _BOX))


@pytest.mark.parametrize("method", ["global", "words", "fusion"])
@pytest.mark.parametrize("name", _NAMES)
def test_a_part_finds_its_photo_by_the_region(inputs, capsys, name, method):
  how = ["--box", _BOX_WORDS, "--method", method]
  found = _search(inputs, capsys, name, *how)
  assert sorted(hit["name"] for hit in found) == sorted(_NAMES)
  assert (found[0]["name"], tuple(found[0]["box"])) == (name, _BOX)
  assert found[0]["score"] == pytest.approx(1, abs=1e-5)
  whole = _search(inputs, capsys, name, *how, "--no-regions")
  assert len(whole) == 3 and not any(hit["box"] for hit in whole)
  assert max(hit["score"] for hit in whole) < found[0]["score"]


def test_a_photo_finds_the_whole_of_itself(inputs, capsys):
  found = _search(inputs, capsys, "b")
  assert (found[0]["name"], found[0]["box"]) == ("b", None)
  first = _search(inputs, capsys, "b", "--top", "1")
  assert first == found[:1]


def test_matching_is_with_whole_photos(inputs, capsys):
  found = _search(inputs, capsys, "a", "--box", _BOX_WORDS, "--rerank")
  assert found[0]["name"] == "a" and tuple(found[0]["box"]) == _BOX
  assert found[0]["inliers"] > 5


def test_lines_and_pages_show_the_region(inputs, capsys, tmp_path):
  page = tmp_path / "page.html"
  photo = inputs / "photos" / "b.png"
  arguments = ["search", inputs / "my.index", photo, "--box", _BOX_WORDS]
  arguments += ["--html", page]
  assert not main.main(list(map(str, arguments)))
  first = capsys.readouterr().out.splitlines()[1]
  assert first.endswith(f"  b  [{_BOX_WORDS}]")
  text = page.read_text()
  left, upper, right, lower = _BOX
  frame = (
    f'<rect x="{left:.1f}" y="{upper:.1f}" width="{right - left:.1f}" '
    f'height="{lower - upper:.1f}"/>'
  )
  assert text.count(frame) >= 2  # Of the query, and of its own photo.
  assert "by region" in text


def test_the_index_grows_shrinks_and_is_merged(inputs, capsys, tmp_path):
  photos, out = inputs / "photos", tmp_path / "one.index"
  assert not _index(inputs, out, photos / "a.png")
  assert "1 images, 6 regions (6 added" in capsys.readouterr().out
  # What it was made with is known.
  assert not _index(inputs, out, photos / "b.png", regions=False)
  assert "2 images, 12 regions (6 added" in capsys.readouterr().out
  assert not _index(inputs, out, photos / "b.png", regions=False)
  assert "(0 added, 6 already" in capsys.readouterr().out
  other = tmp_path / "other.index"
  assert not _index(inputs, other, photos / "sub" / "c.png")
  main.main(["index", "--out", str(out), "--merge", str(other)])
  assert "3 images" in capsys.readouterr().out
  main.main(["index", "--out", str(out), "--remove", "a"])
  assert "2 images" in capsys.readouterr().out
  found = _search(inputs, capsys, "sub/c", index=out)
  assert [hit["name"] for hit in found] == ["c", "b"]


def test_a_photo_that_changed_is_indexed_anew(inputs, capsys, tmp_path):
  photo, out = tmp_path / "p.png", tmp_path / "p.index"
  _photo(7).save(photo)
  assert not _index(inputs, out, photo)
  PIL.Image.new("RGB", (50, 40)).save(photo)
  capsys.readouterr()
  assert not _index(inputs, out, photo)
  assert "1 images, 6 regions (6 added" in capsys.readouterr().out


def test_another_detector_is_refused(inputs, capsys, tmp_path):
  out = tmp_path / "x.index"
  assert not _index(inputs, out, inputs / "photos" / "a.png", regions=False)
  assert _index(inputs, out, inputs / "photos" / "b.png")
  words = capsys.readouterr().err
  assert "made with regions of no detector" in words


@pytest.mark.parametrize("wrong", ["model", "photos", "detectr"])
def test_a_wrong_detector_leaves_no_trace(inputs, capsys, tmp_path, wrong):
  out = tmp_path / "x.index"
  photo = str(inputs / "photos" / "a.png")
  options = ["--config", str(inputs / "model" / "config.pbtxt"), "--regions"]
  words = ["index", photo, "--out", str(out), *options]
  assert main.main([*words, "--detector", str(inputs / wrong)]) == 1
  error = capsys.readouterr().err
  assert str(inputs / wrong) in error and error.count("\n") == 1
  assert not out.exists()
  # The right one is then taken.
  assert not main.main([*words, "--detector", str(inputs / "detector")])


def test_an_evaluation_is_with_and_without_regions(inputs, capsys, tmp_path):
  truth = tmp_path / "truth.csv"
  x1, y1, x2, y2 = _BOX
  truth.write_text(
    f"query,image,label,x1,y1,x2,y2\na.png,b.png,positive,{x1},{y1},{x2},{y2}\n"
  )
  page = tmp_path / "page.html"
  arguments = ["eval", truth, "--index", inputs / "my.index", "--queries"]
  arguments += [inputs / "photos", "--out", tmp_path / "out", "--html", page]
  assert not main.main(list(map(str, arguments)))
  printed = capsys.readouterr().out
  assert "method: global + regions" in printed
  assert "without regions" in printed
  assert "without regions" in page.read_text()
  assert (tmp_path / "out" / "without_regions" / "metrics.txt").exists()
