import hashlib
import io
import json
import tarfile

import pytest

from delf.base import errors
from delf.downloads import published, transfer
from delf.inference import zoo
from tests.stand_ins import faulty_server


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
    (("oxford5k",), "one of roxford5k"),
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


NAME = "r50delg_gld_20200814"


def _archive(**files):
  """Returns the bytes of a .tar.gz of a model's folder."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    for name, content in files.items():
      info = tarfile.TarInfo(f"{NAME}/{name}")
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


ARCHIVE = _archive(**{"saved_model.pb": b"model", "variables/x": b"1"})
OTHER = _archive(**{"saved_model.pb": b"another"})


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("DELF_CACHE", str(tmp_path / "cache"))
  return tmp_path / "cache"


@pytest.fixture
def site(monkeypatch):
  monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
  with faulty_server.serve() as site:
    site.content = ARCHIVE
    yield site


def _install(site, **options):
  return published.install(zoo.artefact(NAME), url=site.url, **options)


def _sha256(content):
  return hashlib.sha256(content).hexdigest()


def test_downloads_unpacks_and_records(cache, site):
  folder = _install(site)
  assert folder == zoo.resolve(NAME) == cache / "models" / NAME
  assert (folder / "saved_model.pb").read_bytes() == b"model"
  assert (folder / "variables" / "x").read_bytes() == b"1"
  assert json.loads((cache / "downloads.json").read_text()) == {
    NAME: {"url": site.url, "size": len(ARCHIVE), "sha256": _sha256(ARCHIVE)}
  }
  assert list((cache / "downloads").iterdir()) == []
  assert [path.name for path in (cache / "models").iterdir()] == [NAME]


def test_what_is_there_is_not_downloaded_again(cache, site):
  _install(site)
  _install(site)
  assert len(site.requests) == 1
  _install(site, force=True)
  assert len(site.requests) == 2


def test_another_content_is_refused_and_kept_aside(cache, site):
  folder = _install(site)
  site.content, site.tag = OTHER, '"v2"'
  with pytest.raises(errors.InputError) as error:
    _install(site, force=True)
  assert _sha256(ARCHIVE) in str(error.value)
  assert f"--sha256 {_sha256(OTHER)}" in str(error.value)
  (aside,) = (cache / "downloads").iterdir()
  assert aside.read_bytes() == OTHER
  assert str(aside) in str(error.value)
  assert (folder / "saved_model.pb").read_bytes() == b"model"
  assert published.recorded(NAME).sha256 == _sha256(ARCHIVE)


def test_another_content_is_taken_if_its_digest_is_given(cache, site):
  folder = _install(site)
  site.content, site.tag = OTHER, '"v2"'
  _install(site, force=True, sha256=_sha256(OTHER).upper())
  assert (folder / "saved_model.pb").read_bytes() == b"another"
  assert not (folder / "variables").exists()
  assert published.recorded(NAME).sha256 == _sha256(OTHER)


def test_the_given_digest_is_compared_at_the_first_download(cache, site):
  with pytest.raises(errors.InputError, match="given"):
    _install(site, sha256=_sha256(OTHER))
  assert not zoo.is_present(zoo.artefact(NAME))
  assert published.recorded(NAME) is None


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64])
def test_digests_are_checked_before_the_download(cache, site, digest):
  with pytest.raises(errors.InputError, match="a SHA-256"):
    _install(site, sha256=digest)
  assert site.requests == []


@pytest.mark.parametrize(
  "content",
  [
    b"<html>Log in to this network</html>",
    _archive(readme=b"no model"),
    _archive(**{"saved_model.pb": b"", "../../../evil": b""}),
    ARCHIVE[:-20],
  ],
)
def test_wrong_content_is_neither_installed_nor_recorded(cache, site, content):
  site.content = content
  with pytest.raises(errors.InputError):
    _install(site)
  assert not zoo.is_present(zoo.artefact(NAME))
  assert published.recorded(NAME) is None
  site.content, site.tag = ARCHIVE, '"v2"'
  assert (_install(site) / "saved_model.pb").read_bytes() == b"model"


def test_goes_on_after_a_cut_connection(cache, site):
  site.cuts = [100]
  _install(site)
  assert site.requests == [None, "bytes=100-"]


@pytest.mark.parametrize(
  "name", ["delf-compact", "delg_gld_20200520", "google/delf/1"]
)
def test_what_cannot_be_downloaded(cache, site, name):
  with pytest.raises(errors.InputError, match="a model to download"):
    published.install(zoo.artefact(name), url=site.url)
  assert site.requests == []


@pytest.mark.parametrize("text", ["{", "[]", '{"a": {"b": 1}}', '{"a": 1}'])
def test_a_damaged_record_is_named(cache, site, text):
  cache.mkdir()
  (cache / "downloads.json").write_text(text)
  with pytest.raises(errors.InputError, match=r"downloads\.json"):
    _install(site)
