import pytest

from delf.python import errors, files


@pytest.fixture
def photos(tmp_path):
  for name in ("b.JPG", "a.png", "sub/c.webp", "sub/.hidden.jpg", "notes.md"):
    path = tmp_path / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  return tmp_path / "photos"


def test_images_of_a_folder(photos):
  assert files.find_images(photos) == [
    str(photos / name) for name in ("a.png", "b.JPG", "sub/c.webp")
  ]


def test_images_of_a_pattern(photos):
  assert files.find_images(photos / "*.png") == [str(photos / "a.png")]
  found = files.find_images(f"{photos}/**/*.webp")
  assert found == [str(photos / "sub" / "c.webp")]


def test_a_file_whose_name_is_like_a_pattern(photos):
  path = photos / "a[1].png"
  path.write_bytes(b"x")
  assert files.find_images(path) == [str(path)]


def test_images_of_a_list(photos, tmp_path):
  absolute = str(photos / "b.JPG")
  (tmp_path / "list.txt").write_text(f"{absolute}\n\nphotos/a.png\nnone.jpg\n")
  assert files.find_images(tmp_path / "list.txt") == sorted(
    [absolute, str(tmp_path / "photos" / "a.png"), "none.jpg"]
  )


def test_one_image_whatever_its_name(photos):
  assert files.find_images(photos / "notes.md") == [str(photos / "notes.md")]


def test_nothing_to_find(photos, tmp_path):
  with pytest.raises(FileNotFoundError, match="none.jpg: expected an image"):
    files.find_images(tmp_path / "none.jpg")
  with pytest.raises(FileNotFoundError, match="none.txt"):
    files.find_images(tmp_path / "none.txt")
  with pytest.raises(errors.InputError, match=r"\*.gif: .*received none"):
    files.find_images(photos / "*.gif")
  (tmp_path / "empty").mkdir()
  with pytest.raises(errors.InputError, match=r"empty: expected images"):
    files.find_images(tmp_path / "empty")
  (tmp_path / "list.txt").write_text("\n\n")
  with pytest.raises(errors.InputError, match="list.txt: expected paths"):
    files.find_images(tmp_path / "list.txt")


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.bin"
  files.write_bytes(path, b"old")
  with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
    temporary.write_bytes(b"half")
    raise RuntimeError
  assert path.read_bytes() == b"old"
  assert list(tmp_path.iterdir()) == [path]


def test_lines_of_a_list(tmp_path):
  path = tmp_path / "list.txt"
  path.write_bytes(b"\xef\xbb\xbf a \r\n\r\nb")
  assert files.read_lines(path) == ["a", "b"]
  path.write_bytes(b"\xff\xfe\x00")
  with pytest.raises(errors.InputError, match="list.txt"):
    files.read_lines(path)
