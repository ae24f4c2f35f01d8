import pytest

from delf.base import errors
from delf.downloads import transfer
from tests.stand_ins import faulty_server

CONTENT = bytes(range(256)) * 4096  # 1 MiB, four reads.


@pytest.fixture
def site():
  with faulty_server.serve() as site:
    site.content = CONTENT
    yield site


def _fetch(site, path):
  transfer.fetch(site.url, path, wait=0.001, timeout=10)
  return path.read_bytes()


def _names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_downloads_and_leaves_nothing_else(site, tmp_path):
  assert _fetch(site, tmp_path / "new" / "f") == CONTENT
  assert _names(tmp_path / "new") == ["f"]
  assert site.requests == [None]


def test_goes_on_after_cut_connections(site, tmp_path):
  site.cuts = [300_000, 0, 300_000]
  assert _fetch(site, tmp_path / "f") == CONTENT
  assert site.requests == [
    None,
    "bytes=300000-",
    "bytes=300000-",
    "bytes=600000-",
  ]


def test_goes_on_in_a_later_call(site, tmp_path):
  site.cuts = [300_000] + [0] * 20
  with pytest.raises(errors.InputError) as error:
    _fetch(site, tmp_path / "f")
  assert "stopped after 300000 bytes" in str(error.value)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "f").exists()
  site.cuts.clear()
  site.requests.clear()
  assert _fetch(site, tmp_path / "f") == CONTENT
  assert site.requests == ["bytes=300000-"]


def test_begins_anew_where_the_server_knows_no_ranges(site, tmp_path):
  site.ranges = False
  site.cuts = [300_000]
  assert _fetch(site, tmp_path / "f") == CONTENT
  assert site.requests == [None, "bytes=300000-"]


def test_begins_anew_where_versions_have_no_name(site, tmp_path):
  site.tag = None
  site.cuts = [300_000]
  assert _fetch(site, tmp_path / "f") == CONTENT
  assert site.requests == [None, None]


def test_does_not_mix_two_versions(site, tmp_path):
  site.cuts = [300_000] + [0] * 20
  with pytest.raises(errors.InputError):
    _fetch(site, tmp_path / "f")
  site.cuts.clear()
  site.content, site.tag = CONTENT[::-1], '"v2"'
  assert _fetch(site, tmp_path / "f") == CONTENT[::-1]


def test_a_part_of_another_address_is_not_continued(site, tmp_path):
  site.cuts = [300_000] + [0] * 20
  with pytest.raises(errors.InputError):
    _fetch(site, tmp_path / "f")
  site.cuts.clear()
  site.requests.clear()
  site.url += ".other"
  assert _fetch(site, tmp_path / "f") == CONTENT
  assert site.requests == [None]


@pytest.mark.parametrize("extra", [0, 5])
def test_a_part_that_is_whole_or_too_long(site, tmp_path, extra):
  site.cuts = [300_000] + [0] * 20
  with pytest.raises(errors.InputError):
    _fetch(site, tmp_path / "f")
  site.cuts.clear()
  (tmp_path / "f.part").write_bytes(CONTENT + b"x" * extra)
  assert _fetch(site, tmp_path / "f") == CONTENT


def test_passing_statuses_are_tried_again(site, tmp_path):
  site.statuses = [503, 429, 500]
  assert _fetch(site, tmp_path / "f") == CONTENT


def test_a_missing_file_is_an_error_at_once(site, tmp_path):
  site.statuses = [404]
  with pytest.raises(errors.InputError, match="HTTP status 404"):
    _fetch(site, tmp_path / "f")
  assert site.requests == [None]
  assert _names(tmp_path) == []


def test_no_server(site, tmp_path):
  with pytest.raises(errors.InputError, match="refused"):
    transfer.fetch("http://127.0.0.1:9/f", tmp_path / "f", attempts=1)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://a/b", "a", ""])
def test_only_http_addresses(tmp_path, url):
  with pytest.raises(errors.InputError, match="an address"):
    transfer.fetch(url, tmp_path / "f")


@pytest.mark.parametrize("length", ["", "abc", "-5", "1e3", "9" * 5000])
def test_a_length_that_is_none_is_left_alone(site, tmp_path, length):
  site.length = length
  assert _fetch(site, tmp_path / "f") == CONTENT


@pytest.mark.parametrize("length", [None, ""])
def test_a_file_that_is_too_large_is_refused(site, tmp_path, length):
  site.length = length
  with pytest.raises(errors.InputError, match="more than 700000 bytes"):
    transfer.fetch(site.url, tmp_path / "f", max_bytes=700_000)
  assert not (tmp_path / "f").exists()
