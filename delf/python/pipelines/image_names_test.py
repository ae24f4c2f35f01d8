import os

import PIL.Image
import pytest

from delf.python.pipelines import image_names


@pytest.fixture
def folder(tmp_path):
  for name in ("b.jpg", "a.png", "deep/a.png"):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (4, 4)).save(path)
  return tmp_path / "photos"


def test_names_with_two_extensions(tmp_path):
  for name in ("a.jpg", "a.png", "a.jpg.png"):
    (tmp_path / name).write_bytes(b"")
  images, names = image_names.find([str(tmp_path)])
  assert sorted(names) == ["a.jpg", "a.jpg.png", "a.png"]
  assert len(set(zip(images, names, strict=True))) == 3


def test_an_image_that_is_found_twice_is_done_once(tmp_path):
  (tmp_path / "x").mkdir()
  (tmp_path / "x" / "a.jpg").write_bytes(b"")
  images, names = image_names.find([str(tmp_path), str(tmp_path / "x")])
  assert (len(images), names) == (1, [os.path.join("x", "a")])


def test_images_of_a_folder_keep_their_sub_folder(folder):
  images, names = image_names.find([str(folder)])
  assert names == ["a", "b", "deep/a"]
  assert images[2] == str(folder / "deep" / "a.png")


def test_images_of_patterns_and_lists_go_by_base_name(folder, tmp_path):
  images, names = image_names.find([str(folder / "*.jpg")])
  assert names == ["b"]
  listed = tmp_path / "list.txt"
  listed.write_text(f"{folder}/deep/a.png\n{folder}/b.jpg\n")
  images, names = image_names.find([str(listed)])
  assert sorted(names) == ["a", "b"]
  assert len(images) == 2


@pytest.mark.parametrize(
  ("sources", "expected"),
  [
    (["photos"], {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"}),
    (["photos/*.jpg"], {"a.jpg": "a", "b.jpg": "b"}),
    (
      ["photos/**/a.*"],
      {"a.png": "a.png", "a.jpg": "a.jpg", "deep/a.png": "deep/a"},
    ),
    (["photos/b.jpg", "other"], {"b.jpg": "b", "../other/c.jpg": "c"}),
    (
      ["photos/deep", "other", "photos/a.jpg"],
      {
        "deep/a.png": "photos/deep/a",
        "a.jpg": "photos/a",
        "../other/c.jpg": "c",
      },
    ),
  ],
)
def test_equal_names_are_told_apart(
  folder, monkeypatch, tmp_path, sources, expected
):
  PIL.Image.new("RGB", (4, 4)).save(folder / "a.jpg")
  (tmp_path / "other").mkdir()
  PIL.Image.new("RGB", (4, 4)).save(tmp_path / "other" / "c.jpg")
  monkeypatch.chdir(tmp_path)
  found = dict(zip(*image_names.find(sources), strict=True))
  found = {
    os.path.relpath(path, "photos"): name for path, name in found.items()
  }
  for path, name in expected.items():
    assert found[path] == name
  assert len(set(found.values())) == len(found)


def test_equal_names_of_remote_images_are_told_apart(tmp_path):
  listed = tmp_path / "list.txt"
  listed.write_text(
    "gs://bucket/x/a.jpg\ngs://bucket/y/a.jpg\ngs://bucket/b.png"
  )
  assert image_names.find([str(listed)])[1] == ["b", "x/a", "y/a"]
